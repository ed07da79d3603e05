"""What notebook 0 shows of a run."""

from ecar_lab.teaching.explore import start as explore


def test_stages_are_told_as_they_start_and_end(capsys):
    explore.tell_turning_points([(1, 0, 0.0, 4), (1, 8, 0.4, 4), (2, 0, 0.25, 8)])
    assert capsys.readouterr().out.splitlines() == [
        "stage 1 starts at t = 0.00 with a latent of 4×4",
        "stage 1 ends   at t = 0.40 with a latent of 4×4",
        "stage 2 starts at t = 0.25 with a latent of 8×8",
    ]


def test_a_run_is_shown_in_pictures_a_table_and_shares(shown, tiny_pipeline):
    tiny_pipeline.set_progress_bar_config(disable=True)
    events = explore.run(tiny_pipeline, "cat", 0)
    explore.show_strip(events, tiny_pipeline)
    explore.show_overview(events, tiny_pipeline)
    explore.show_stages(tiny_pipeline.model.schedule)
    explore.show_flops([10**9, 3 * 10**9], [4, 16])
    assert shown.numbers == ["2", "3", "4"]
    assert "Shares of the stages: 25%, 75%" in shown.captions[2]
    first, last = tiny_pipeline.model.schedule.resolutions
    assert f"| 1 | {first}×{first} | 0.000 |" in shown.tables[0]
    assert f"| 2 | {last}×{last} |" in shown.tables[0]
