"""Runs are listed, compared and drawn; what is none is named and passed over."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ecar_lab.cli import main as cli
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.judge import fingerprint
from ecar_lab.runs import records
from ecar_lab.runs.pages import page, pareto
from ecar_lab.runs.records import find_runs
from ecar_lab.runs.table import best, comparable, table
from tests.cli.commands import complaint
from tests.training.runs import config


def make_run(
    folder: Path, minutes: float = 1.0, weights: int = 30, distance: float | None = None,
    net: str = "features-digits", finished: bool = True, **settings,
) -> Path:  # fmt: skip
    """A run folder as a training leaves it, less what is large."""
    folder.mkdir(parents=True)
    cfg = config(folder, **settings)
    (folder / "config.json").write_text(json.dumps(cfg.to_dict()))
    rows = [
        {"step": n, "images": 8 * n, "loss": 1 / n, "loss_stage": [2 / n, None],
         "seconds": 60 * minutes * n / 4}
        for n in (2, 4)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        model = folder / "final" / "model"
        model.mkdir(parents=True)
        weight = torch.full((weights // 10, 10), minutes)
        save_file({"weight": weight}, model / "diffusion_pytorch_model.safetensors")
        (folder / "final" / "model_index.json").write_text("{}")
    if distance is not None:
        evaluate(folder / "evaluation.json", folder / "final", distance, net)
    return folder


def evaluate(file: Path, result: Path, distance: float, net: str = "features-digits") -> None:
    """Writes what `ecar evaluate --output` writes, as far as it is read."""
    content = {
        "checkpoint_hash": fingerprint(result),
        "dataset": "digits",
        "reference": {"split": "test"},
        "feature_net": {"name": net, "hash": "abc"},
        "metrics": {f"frechet_distance[{net}]": distance, "precision_k3": 0.5, "images": 1000},
    }
    file.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs that can be compared, one that cannot, one that goes on."""
    make_run(tmp_path / "fast", minutes=1, distance=3.0)
    make_run(tmp_path / "deep" / "slow", minutes=8, distance=1.0)
    make_run(tmp_path / "beaten", minutes=9, distance=2.0)
    make_run(tmp_path / "elsewhere", minutes=2, distance=9.0, net="another")
    make_run(tmp_path / "under way", finished=False, architecture="dit")
    return tmp_path


def test_table_says_what_each_run_is(root: Path):
    runs, problems = find_runs(root)
    assert problems == []
    assert [run.name for run in runs] == ["beaten", "deep/slow", "elsewhere", "fast", "under way"]
    fast, under_way = runs[3], runs[4]
    assert (fast.parameters, fast.images, fast.minutes, fast.loss) == (30, 32, 1.0, 0.25)
    assert fast.distance is not None
    assert fast.distance.value == 3.0
    assert (under_way.kind, under_way.parameters, under_way.distance) == ("dit", None, None)
    text = table(runs)
    assert len({line.index("digits") for line in text.splitlines()[1:]}) == 1
    assert text.splitlines()[-1].endswith("unfinished")


def test_only_what_was_measured_alike_is_compared(root: Path):
    alike, left = comparable(find_runs(root)[0])
    assert [run.name for run in alike] == ["beaten", "deep/slow", "fast"]
    assert [run.name for run in best(alike)] == ["fast", "deep/slow"]
    assert left == [
        "elsewhere: its distance is of 1,000 images against digits (test) on another, which cannot "
        "be compared; left out of the plot"
    ]


def test_evaluation_of_other_weights_is_none_of_the_run(root: Path):
    make_run(root / "new", minutes=3)
    evaluate(root / "new" / "old.json", root / "fast" / "final", 0.5)
    evaluate(root / "of_new.json", root / "new" / "final", 0.7)
    runs = {run.name: run for run in find_runs(root)[0]}
    assert runs["new"].distance is not None
    assert runs["new"].distance.value == 0.7


def test_one_run_is_listed_alone(root: Path):
    (run,) = find_runs(root / "fast")[0]
    assert run.name == "fast"
    assert run.distance is not None


def test_checkpoint_counts_where_there_is_no_result(root: Path):
    folder = root / "under way" / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, folder / "ema.safetensors")
    assert find_runs(root / "under way")[0][0].parameters == 17


@pytest.mark.parametrize(
    "strange",
    [{"feature_net": [1]}, {"feature_net": "x"}, {"feature_net": None}, {"reference": [1]},
     {"reference": 3}, {"metrics": []}, {"metrics": {"fid": [1]}}, {"metrics": {"fid": 10**400}},
     {"checkpoint_hash": [1]}],
)  # fmt: skip
def test_evaluation_with_strange_values_is_passed_over(root: Path, strange: dict):
    file = root / "fast" / "evaluation.json"
    sound = json.loads(file.read_text())
    file.write_text(json.dumps({**sound, **strange}))
    runs, problems = find_runs(root)
    assert problems == []
    assert [run.name for run in runs if run.distance] == ["beaten", "deep/slow", "elsewhere"]
    bare = {name: sound[name] for name in ("metrics", "checkpoint_hash", "dataset")}
    (root / "fast" / "of_old.json").write_text(json.dumps(bare))
    assert [run.name for run in find_runs(root)[0] if run.distance][-1] == "fast"


def test_run_that_cannot_be_read_is_named_and_the_others_are_listed(root: Path, monkeypatch):
    def refuse(folder: Path) -> list[Path]:
        if folder.name == "fast":
            raise PermissionError(13, "Permission denied")
        return []

    monkeypatch.setattr(records, "list_checkpoints", refuse)
    runs, problems = find_runs(root)
    assert len(runs) == 4
    assert problems == ["fast: it cannot be read ([Errno 13] Permission denied), skipped"]


BROKEN = {
    "no json": {"config.json": b"{"},
    "no object": {"config.json": b"[]"},
    "other kind": {"config.json": b'{"kind": "pizza"}'},
    "other field": {"config.json": b'{"kind": "model", "crust": 1}'},
    "wrong value": {"config.json": b'{"kind": "model", "steps": -1}'},
    "log alone": {"metrics.jsonl": b'{"step": 1}\n'},
    "foreign": {"photo.txt": b"hello"},
    "empty": {},
}


def test_what_is_no_run_is_named_in_one_sentence_each(root: Path):
    for name, files in BROKEN.items():
        (root / name).mkdir()
        for file, content in files.items():
            (root / name / file).write_bytes(content)
    os.mkfifo(root / "fast" / "pipe.json")
    runs, problems = find_runs(root)
    assert len(runs) == 5
    assert sorted(one.partition(":")[0] for one in problems) == sorted(BROKEN)
    assert all("\n" not in one and one.endswith("skipped") for one in problems)


@pytest.mark.parametrize(
    "log",
    [b"", b"\xff\xfe\n", b'{"step": 1, "loss": null}\n', b'{"step": 1, "loss": "x"}\n', b"nonsense",
     b'{"step": 1, "loss": NaN}\n', b'{"step": 1, "loss": true}\n',
     b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n"],
)  # fmt: skip
def test_log_without_a_loss_leaves_dashes(tmp_path: Path, log: bytes):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(log)
    runs, problems = find_runs(tmp_path)
    assert problems == []
    assert (runs[0].loss, runs[0].minutes) == (None, None)
    assert "–" in table(runs)
    assert "<svg" not in page(runs, [])


def test_log_with_strange_values_is_drawn_as_far_as_it_goes(tmp_path: Path):
    make_run(tmp_path / "run")
    rows = [
        {"step": 1, "loss": 1.0, "images": "many", "loss_stage": "x", "seconds": []},
        {"step": 2, "loss": 0.5, "images": 8, "loss_stage": [0.5, "x"], "seconds": {}},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (run,) = find_runs(tmp_path)[0]
    assert run.curves() == {"loss": [(8, 0.5)], "stage 1": [(8, 0.5)]}
    assert run.minutes is None


def test_page_is_whole_and_says_nothing_of_its_own(root: Path):
    evil = root / "<script>x"
    make_run(evil)
    runs, _ = find_runs(root)
    text = page(runs, comparable(runs)[0])
    assert "<script" not in text
    assert "&lt;script&gt;x" in text
    assert text.count("<svg ") == 1 + len(runs)
    assert 'href="http' not in text.replace("http://www.w3.org", "")
    assert "src=" not in text


def test_plot_needs_a_distance(tmp_path: Path):
    make_run(tmp_path / "run")
    with pytest.raises(EcarError, match="none of these runs was evaluated"):
        pareto(comparable(find_runs(tmp_path)[0])[0])


def test_command_lists_plots_and_writes(root: Path, tmp_path: Path, capsys):
    (root / "foreign").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    switches = ["--plot", str(out / "a.png"), "--page", str(out / "a.html")]
    assert cli.main(["runs", str(root), *switches]) == 0
    said = capsys.readouterr()
    assert "deep/slow" in said.out
    assert "foreign: no run" in said.err
    assert "elsewhere: its distance" in said.err
    assert (out / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "deep/slow" in (out / "a.html").read_text("utf-8")
    assert cli.main(["runs", str(root / "fast"), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["run"], one["distance"], one["finished"]) == ("fast", 3.0, True)


def test_command_draws_the_curves_of_one_run(root: Path, tmp_path: Path, capsys):
    picture = tmp_path / "curves.png"
    assert cli.main(["runs", str(root / "fast"), "--curves", str(picture)]) == 0
    assert "the losses of fast" in capsys.readouterr().err
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    plot = tmp_path / "plot.png"
    said = cli.main(["runs", str(root), "--curves", str(picture), "--plot", str(plot)])
    assert "--curves draws one run" in complaint(capsys, said)
    assert not picture.exists()
    assert not plot.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no folder 'nowhere'"),
        ([".", "--plot", "a.gif"], "a.gif"),
        ([".", "--curves", "a.gif"], "a.gif"),
        ([".", "--page", "a.txt"], "a.txt"),
        (
            [".", "--plot", "a.svg", "--curves", "../x/a.svg"],
            "--plot and --curves are both '../x/a.svg': name two files",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    arguments, words: str, tmp_path, monkeypatch, capsys
):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    assert words in complaint(capsys, cli.main(["runs", *arguments]))
