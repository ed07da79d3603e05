"""Every experiment at smoke size, from the command to the figure, and the lab's memory."""

import json
import re
from dataclasses import replace
from typing import ClassVar

import pyarrow
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import parquet

from ecar_lab import EcarError
from ecar_lab.baselines import DiT
from ecar_lab.cli.main import main
from ecar_lab.cost import total_flops
from ecar_lab.experiments import (
    EXPERIMENTS,
    load_experiment,
    recipe,
    shipped,
    steps_and_guidance,
    windows_and_couplings,
)
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.records import Trained, key_of, read_run
from ecar_lab.experiments.lab.scores import half_width, spread
from ecar_lab.experiments.lab.sizes import SIZES, Size
from ecar_lab.experiments.lab.studies import Variant
from ecar_lab.experiments.stage_ablation import steps_of_equal_flops
from ecar_lab.experiments.stage_errors import with_real_stages
from ecar_lab.experiments.steps_and_guidance import front, mark_front
from ecar_lab.experiments.windows_and_couplings import windows
from ecar_lab.presets import get_preset
from ecar_lab.training.config import ModelTrainConfig
from tests.conftest import tiny_model


@pytest.fixture(scope="session")
def few_real_images(data_root, tmp_path_factory):
    """A folder of data sets with the first images of CIFAR-10: a distance to all takes seconds."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "cifar10").mkdir()
    for split in ("train", "test"):
        first = next(
            parquet.ParquetFile(data_root / "cifar10" / f"{split}.parquet").iter_batches(300)
        )
        parquet.write_table(
            pyarrow.Table.from_batches([first]), folder / "cifar10" / f"{split}.parquet"
        )
    return folder


class Watched(Size):
    """A size that notes which of its parts are asked for."""

    asked: ClassVar[set[str]] = set()

    def __getattribute__(self, name):
        Watched.asked.add(name)
        return super().__getattribute__(name)


@pytest.fixture
def asked(monkeypatch):
    """What the experiments that run ask of their size, and ``only``."""
    watched = Watched(**vars(SIZES["smoke"]))
    wanted = Lab.wanted

    def watched_arms(lab, arms, default):
        Watched.asked.add("only")
        return wanted(lab, arms, default)

    monkeypatch.setitem(SIZES, "smoke", watched)
    monkeypatch.setattr(Lab, "wanted", watched_arms)
    return Watched.asked


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_an_experiment_runs_and_leaves_result_figure_and_table(
    name, runs, tmp_path, capsys, request, monkeypatch, asked
):
    module, within = load_experiment(name), set()

    def run(lab, run=module.run):
        asked.clear()
        result = run(lab)
        within.update(asked)
        return result

    monkeypatch.setattr(module, "run", run)
    if name == "shipped":
        monkeypatch.setenv("ECAR_DATA", str(request.getfixturevalue("few_real_images")))
    arguments = ["--size", "smoke", "--runs", str(runs), "--out", str(tmp_path)]
    assert main(["experiment", name, *arguments]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / f"{name}-smoke.json").read_text("utf-8"))
    assert result["command"] == f"ecar experiment {name} --size smoke"
    assert result["size"]["name"] == "smoke"
    assert result["machine"]
    assert str(tmp_path) not in json.dumps(result)
    assert load_experiment(name).table(result) in printed
    with Image.open(tmp_path / f"{name}-smoke.png") as picture:
        assert min(picture.size) > 150
    # What the command takes changes something, and what would change nothing it refuses.
    switches = {"preset", "steps", "seconds", "seeds", "num_samples", "only"}
    alone = {"steps"} if name == "recipe" else set()  # its tokenizers, in a smoke test only
    assert within & switches - alone == set(EXPERIMENTS[name].takes)


@pytest.mark.parametrize(
    ("name", "switch", "value", "takes"),
    [
        ("steps-and-guidance", "--seeds", "0", "--num-samples"),
        ("recipe", "--steps", "9", "--preset, --seconds, --seeds, --num-samples, --only"),
        ("complexity", "--num-samples", "9", "--size"),
        ("two-stage", "--only", "x", "--preset, --steps, --seeds, --num-samples"),
        ("few-shot", "--seconds", "9", "--preset, --steps, --seeds"),
    ],
)
def test_a_switch_that_would_change_nothing_is_refused(
    name, switch, value, takes, tmp_path, capsys
):
    arguments = ["--size", "smoke", "--out", str(tmp_path), "--runs", str(tmp_path)]
    assert main(["experiment", name, *arguments, switch, value]) == 2
    sentence = f"{switch} changes nothing in the experiment {name}: leave it out"
    assert f"error: {sentence} (what changes it: {takes})" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["recipe", "windows-and-couplings"])
def test_an_arm_that_there_is_not_is_refused(name, tmp_path):
    lab = Lab(SIZES["smoke"], tmp_path, only=("swigloo",))
    with pytest.raises(EcarError, match="--only 'swigloo' is in no arm's name: use a part of "):
        load_experiment(name).run(lab)


@pytest.mark.parametrize(
    ("only", "names"), [((), "default leak other"), (("ea", "x"), ""), (("leak",), "default leak")]
)
def test_the_default_is_run_beside_the_arms_that_are_wanted(tmp_path, only, names):
    arms = [Variant(name) for name in ("default", "leak", "other")]
    lab = Lab(SIZES["smoke"], tmp_path, only=only)
    if names:
        assert [arm.name for arm in lab.wanted(arms, "default")] == names.split()
    else:
        with pytest.raises(EcarError, match="--only 'x' is in no arm's name"):
            lab.wanted(arms, "default")


def test_one_seed_is_no_two_independent_runs(tmp_path, capsys):
    arguments = ["--size", "smoke", "--out", str(tmp_path), "--seeds", "0", "1", "0"]
    assert main(["experiment", "two-stage", *arguments]) == 2
    sentence = "--seeds names 0 twice, that is one run: give each seed once"
    assert sentence in capsys.readouterr().err
    with pytest.raises(EcarError, match="names 3 twice"):
        replace(SIZES["cpu"], seeds=(3, 3))


def small_result(folder, monkeypatch, *switches):
    """Status of an experiment that measures nothing but the arms and seeds it was asked for."""
    module = load_experiment("windows-and-couplings")
    made = {"run": lambda lab: {"rows": [arm.name for arm in windows_and_couplings.variants(lab)]}}
    made |= {"table": lambda result: "", "draw": lambda result: Figure()}
    for name, function in made.items():
        monkeypatch.setattr(module, name, function)
    places = ["--runs", str(folder / "runs"), "--out", str(folder)]
    return main(["experiment", "windows-and-couplings", "--size", "smoke", *places, *switches])


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        ([], [], True),
        ([], ["--only", "leak"], False),
        (["--only", "0.3"], ["--only", "leak"], False),
        (["--only", "leak"], ["--only", "leak", "0.3"], True),
        (["--only", "leak"], [], True),
        (["--seeds", "0", "1"], ["--seeds", "0"], False),
        (["--seeds", "1"], ["--seeds", "0", "1"], True),
        (["--num-samples", "50"], [], False),
        (["--steps=9"], [], False),
    ],
)
def test_a_result_is_not_replaced_by_one_that_lacks_a_part_of_it(
    before, after, replaced, tmp_path, monkeypatch, capsys
):
    assert small_result(tmp_path, monkeypatch, *before) == 0
    file = tmp_path / "windows-and-couplings-smoke.json"
    held, command = file.read_bytes(), json.loads(file.read_bytes())["command"]
    status = small_result(tmp_path, monkeypatch, *after)
    assert status == (0 if replaced else 2)
    sentence = f"{str(file)!r} holds a result of `{command}` that this one would not: name another"
    assert (sentence in capsys.readouterr().err) != replaced
    assert replaced or file.read_bytes() == held


@pytest.mark.parametrize(
    "held", ["[]", "{", "{}", '{"command": 3}', r'{"command": "rm \""}', '{"command": "ls"}']
)
def test_a_file_that_is_no_result_is_not_replaced(held, tmp_path, monkeypatch, capsys):
    file = tmp_path / "windows-and-couplings-smoke.json"
    file.write_text(held)
    assert small_result(tmp_path, monkeypatch) == 2
    assert "name another folder with --output, or delete it" in capsys.readouterr().err
    assert file.read_text() == held


def test_the_same_training_is_made_once(runs):
    lab = Lab(SIZES["smoke"], runs)
    first = lab.train(seed=7)
    written = (first.folder / "model_index.json").stat().st_mtime_ns
    assert lab.train(seed=7) == first
    assert (first.folder / "model_index.json").stat().st_mtime_ns == written
    assert lab.train(seed=8).folder != first.folder
    assert first.images == 3 * 32
    assert first.train_flops > 0
    assert list((runs / "latents").glob("latents-*.safetensors"))  # encoded once for all
    assert not list(first.folder.parent.glob("latents-*"))


def test_a_measurement_is_remembered_under_all_its_settings(tmp_path):
    lab, calls = Lab(SIZES["smoke"], tmp_path), []

    def measure():
        calls.append(1)
        return {"value": len(calls)}

    assert lab.remember("number", {"a": 1}, measure) == {"value": 1}
    assert lab.remember("number", {"a": 1}, measure) == {"value": 1}
    assert lab.remember("number", {"a": 2}, measure) == {"value": 2}


@pytest.mark.parametrize(
    "held",
    [b"", b'{"settings": {"a": [1]}, "res', b"[]", b"{}", b"\xff", b'{"result": {"value": 1}}',
     b'{"settings": {"a": [2]}, "result": {}}', b'{"settings": {"a": [1]}, "result": []}'],
)  # fmt: skip
def test_a_measurement_that_is_damaged_is_named(tmp_path, held):
    lab, settings = Lab(SIZES["smoke"], tmp_path), {"a": (1,)}
    lab.remember("number", settings, lambda: {"value": float("nan")})
    assert set(lab.remember("number", settings, dict)) == {"value"}
    (file,) = (tmp_path / "measured").iterdir()
    file.write_bytes(held)
    with pytest.raises(EcarError) as caught:
        lab.remember("number", settings, dict)
    assert repr(str(file)) in str(caught.value)
    assert str(caught.value).endswith(" delete it to measure again")


def test_a_training_whose_log_lacks_a_number_is_named(tmp_path):
    row = {"step": 3, "loss": 1.0, "images": 9, "seconds": 1.0, "loss_stage": [1.0]}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    with pytest.raises(EcarError, match="holds no finished training: delete the folder"):
        read_run(tmp_path)


def test_the_key_of_a_training_ignores_where_it_is_kept_and_nothing_that_matters():
    here, there = ModelTrainConfig(output="here"), ModelTrainConfig(output="there", data="x")
    assert key_of(here) == key_of(there)
    for change in ({"seed": 1}, {"lr": 1e-4}, {"model": {"width": 8}}, {"architecture": "dit"}):
        assert key_of(ModelTrainConfig(**change)) != key_of(here)


def test_spread_is_mean_and_sample_deviation():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert spread([4.0])["std"] is None


def test_windows_are_the_default_ones_stretched():
    assert windows(0.5, 3) == {"window_ends": [0.5, 0.75, 1.0]}
    assert windows(0.7, 3) == {"window_ends": [0.7, 0.85, 1.0]}
    assert windows(0.3, 2) == {"window_ends": [0.3, 1.0]}


def test_equal_flops_means_fewer_steps_for_the_dearer():
    class Run:
        def __init__(self, flops):
            self.train_flops, self.images = flops * 100, 100

    runs = {"cheap": Run(1.0), "dear": Run(4.0)}
    assert steps_of_equal_flops(runs, 400) == {"cheap": 400, "dear": 100}


def test_the_front_holds_what_nothing_beats():
    rows = [
        {"gflop": 1, "frechet": 5.0},
        {"gflop": 2, "frechet": 6.0},
        {"gflop": 3, "frechet": 2.0},
        {"gflop": 3, "frechet": 2.5},
    ]
    mark_front(rows)
    assert front(rows) == [rows[0], rows[2]]


def tiny_dit():
    return DiT(8, 3, 2, 4, num_layers=1, num_heads=2, head_dim=8)


def test_every_way_of_sampling_fits_its_model_and_each_model_has_its_front():
    """What the sizes cpu and gpu measure, of which a test can only count the FLOPs."""
    for name, model in (("E-CAR", tiny_model(latent_size=16, num_stages=3)), ("DiT", tiny_dit())):
        rows = []
        for setting in steps_and_guidance.settings(len(model.sides), "cpu"):
            arguments = {key: value for key, value in setting.items() if key != "kind"}
            gflop = total_flops(model.flops(**arguments)) / 1e9
            rows.append({**setting, "model": name, "gflop": gflop, "frechet": 1 / gflop})
        assert len({json.dumps(row) for row in rows}) == len(rows) > 10
        assert {row["solver"] for row in rows} == {"ab2", "euler", "heun"}
        assert any([0.0, 0.3] in row["guidance_interval"] for row in rows)
        assert any(1.3 in row["time_power"] for row in rows)
        mark_front(rows)
        assert front(rows)[0] is min(rows, key=lambda row: row["gflop"])


def test_results_of_two_models_are_told_apart_and_old_ones_are_those_of_e_car():
    row = {
        "kind": "steps", "num_inference_steps": [2, 1], "guidance_scale": [1.0, 2.5],
        "guidance_interval": [[0.0, 1.0], [0.2, 0.5]], "time_power": [1.0, 1.3],
        "solver": "ab2", "gflop": 1.0,
        "frechet": 2.0, "precision": 0.5, "recall": 0.5, "named_right": None,
    }  # fmt: skip
    young = ("guidance_interval", "time_power")
    old = {key: value for key, value in row.items() if key not in young}
    rows = [{**row, "model": "E-CAR"}, {**row, "model": "DiT", "gflop": 3.0, "frechet": 3.0}]
    for name in ("E-CAR", "DiT"):
        mark_front([one for one in rows if one["model"] == name])
    table = steps_and_guidance.table({"rows": rows})
    assert "| E-CAR | yes | 2 + 1 | 1 / 1.3 | 1 / 2.5 in 0.2–0.5 | ab2 | 1.00 | 2.00 |" in table
    assert "| DiT | yes |" in table
    figure = steps_and_guidance.draw({"checkpoint": "x", "rows": rows})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["E-CAR, front", "DiT, front"]
    mark_front([old])
    assert "| E-CAR | yes | 2 + 1 | 1 | 1 / 2.5 | ab2 |" in steps_and_guidance.table(
        {"rows": [old]}
    )


def test_an_unknown_experiment_is_named_with_those_there_are(capsys):
    assert main(["experiment", "magic"]) == 2
    message = capsys.readouterr().err
    assert "experiment 'magic' is unknown" in message
    assert "stage-ablation" in message


def test_the_list_of_experiments_says_what_each_asks(capsys):
    assert main(["experiment"]) == 0
    printed = capsys.readouterr().out
    for name, entry in EXPERIMENTS.items():
        assert name in printed
        assert entry.question in printed


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [
        (["--steps", "0"], "steps is 0: use 1 or more"),
        (["--seconds", "0"], "seconds is 0.0: use a finite number above 0"),
        (["--seconds", "nan"], "seconds is nan"),
        (["--preset", "mnist"], "preset 'mnist' is unknown"),
        (["--device", "cuda:9"], "not available|unknown"),
    ],
)
def test_a_switch_that_cannot_be_is_refused(switches, sentence, tmp_path, capsys):
    arguments = ["--size", "smoke", "--out", str(tmp_path), *switches]
    assert main(["experiment", "single-stage", *arguments]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_a_document_s_tables_are_those_of_its_results(tmp_path):
    from ecar_lab.experiments.lab.report import empty_in, fill, results_in

    rows = [{"steps": 2, "frechet": spread([3.0]), "named_right": spread([0.5]), "gflop": 1.0}]
    result = {
        "experiment": "single-stage", "command": "ecar experiment single-stage", "threads": 2,
        "machine": "2 cores", "dtype": "float32", "size": {"preset": "digits", "seeds": [0]},
        "rows": rows,
    }  # fmt: skip
    (tmp_path / "single-stage-cpu.json").write_text(json.dumps(result), encoding="utf-8")
    text = "before\n<!-- result single-stage-cpu -->\nold\n<!-- end -->\nafter\n"
    filled = fill(text, tmp_path)
    assert results_in(text) == ["single-stage-cpu"]
    assert "old" not in filled
    assert "| 2 | 3.00 | 50.0% | 1.000 |" in filled
    assert filled.startswith("before\n")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert fill(filled, tmp_path) == filled
    place = "<!-- result not-yet -->\n<!-- end -->"
    assert fill("<!-- result not-yet -->\nan old table\n<!-- end -->", tmp_path) == place
    assert empty_in(filled + place) == ["not-yet"]
    with pytest.raises(EcarError, match="holds no results: name their folder with --results"):
        fill(text, tmp_path / "elsewhere")
    for held in ("{", "[]", "{}", '{"experiment": []}', '{"experiment": "single-stage"}'):
        (tmp_path / "single-stage-cpu.json").write_text(held, encoding="utf-8")
        with pytest.raises(EcarError, match=r"single-stage-cpu\.json' is .*: measure it again"):
            fill(text, tmp_path)


def test_a_training_that_was_stopped_is_not_taken_for_finished(tmp_path, monkeypatch):
    import ecar_lab.training.model

    real = ecar_lab.training.model.train_model

    def stopped_early(config):
        folder = real(replace(config, steps=1))
        return folder

    lab = Lab(SIZES["smoke"], tmp_path)
    monkeypatch.setattr(ecar_lab.training.model, "train_model", stopped_early)
    with pytest.raises(EcarError, match="was stopped before its end: run the experiment again"):
        lab.train()
    monkeypatch.setattr(ecar_lab.training.model, "train_model", real)
    assert lab.train().images == 3 * 32


def test_the_shipped_checkpoints_are_compared_at_the_guidance_that_suits_each(
    runs, tmp_path, monkeypatch
):
    lab = Lab(SIZES["smoke"], runs, data_root=str(tmp_path))
    folders = {
        name: str(lab.train(architecture=architecture).folder)
        for name, architecture in (("E-CAR", "ecar"), ("DiT", "dit"))
    }
    whole, half = [0.0, 1.0], [0.0, 0.5]
    ways = {"E-CAR": [(1.0, whole), ([1.0, 2.0], [whole, half])], "DiT": [(2.0, whole)]}
    plans = {
        "E-CAR": [([2, 1], False), ([2, 1], True)],
        "DiT": [(6, True), (3, False)],
    }
    ab2 = {"solver": "ab2", "time_power": 1.5}
    monkeypatch.setattr(shipped, "GUIDANCE", ways)
    monkeypatch.setattr(shipped, "TRIAL_STEPS", {"E-CAR": [1, 1], "DiT": 2})
    monkeypatch.setattr(shipped, "FINAL", plans)
    monkeypatch.setattr(shipped, "TRIALS", {"smoke": 2})
    monkeypatch.setattr(shipped, "PLANS", {"smoke": 0})
    monkeypatch.setattr(shipped, "FAST", {"E-CAR": ab2, "DiT": ab2})
    asked = replace(lab, size=replace(lab.size, num_samples=12, seeds=(0, 1)))
    ours, theirs = (shipped.measure(asked, name, folders[name]) for name in ("E-CAR", "DiT"))
    best = min(ours["trials"], key=lambda trial: trial["frechet"])
    assert len(ours["trials"]) == 2
    for part in ("guidance_scale", "guidance_interval"):
        assert ours["points"][0][part] == best[part]
    assert ours["points"][1]["guidance_scale"] == 1.0
    sampled = [(point["solver"], point["time_power"]) for point in theirs["points"]]
    assert sampled == [("euler", 1.0), ("ab2", 1.5)]
    assert [point["num_inference_steps"] for point in theirs["points"]] == [6, 3]
    assert theirs["points"][0]["gflop"] == pytest.approx(2 * theirs["points"][1]["gflop"])
    assert (ours["images"], ours["seeds"]) == (12, [0, 1])
    for point in ours["points"]:
        assert len(set(point["distances"])) == 2
        assert point["frechet"] == pytest.approx(sum(point["distances"]) / 2)
        assert point["interval"] == half_width(point["distances"])
    result = {"E-CAR": ours, "DiT": theirs, "flops_ratio": 2.0}
    assert "1: " in shipped.table(result)
    assert "1 / 2 in 0–0.5: " in shipped.table(result)
    assert shipped.draw(result).axes
    shipped.add_times(lab, {**ours, "checkpoint": folders["E-CAR"]})
    shipped.add_times(lab, {**theirs, "checkpoint": folders["DiT"]})
    seconds = [point["seconds_per_image"]["1"] for point in (*ours["points"], *theirs["points"])]
    assert all(value > 0 for value in seconds)


def test_the_cheapest_of_those_that_are_as_good_as_dit():
    def point(gflop, distance):
        return {
            **{"gflop": gflop, "frechet": distance, "num_inference_steps": 4, "solver": "ab2"},
            "seconds_per_image": {"1": gflop / 100},
        }

    result = {
        "E-CAR": {"points": [point(8, 0.5), point(6, 0.7)]},
        "few-step E-CAR": {"points": [point(2, 0.9), point(1, 1.5)]},
        "DiT": {"points": [point(80, 0.9), point(12, 0.6), point(9, 0.4)]},
    }
    found = [(dit["gflop"], name, p["gflop"]) for dit, name, p in shipped.as_good(result)]
    assert found == [(80, "few-step E-CAR", 2), (12, "E-CAR", 8)]  # none reaches 0.4


def test_the_confidence_interval_of_a_mean_is_student_s():
    # Three values: t of two degrees of freedom at 95% is 4.3027 (any table of Student's t).
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert half_width([1.0]) is None
    assert half_width([2.0, 2.0]) == 0.0


def test_real_stages_take_the_place_of_the_model_s(tiny_pipeline):
    pipe = tiny_pipeline
    latent = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    def made(kept):
        arguments = ([1.0, 2.0], torch.Generator().manual_seed(0), torch.float32)
        return with_real_stages(pipe, latent, torch.tensor([0, 1]), kept, *arguments)

    generator = torch.Generator().manual_seed(0)
    pipe.model.draw(2, generator)
    *_, own = pipe.trace([0, 1], None, [1.0, 2.0], generator)
    assert torch.equal(made(0), own.latent)
    assert torch.equal(made(2), latent)  # the last stage ends at the data
    assert not torch.allclose(made(1), own.latent, atol=0.1)


def test_the_shipped_checkpoints_need_the_data(tmp_path, monkeypatch):
    monkeypatch.delenv("ECAR_DATA", raising=False)
    with pytest.raises(EcarError, match="name their folder with --data"):
        shipped.run(Lab(SIZES["smoke"], tmp_path))


def test_every_recipe_gets_the_steps_that_its_time_holds(tmp_path, monkeypatch):
    speed, trained = {}, {}

    def measured(lab, known, keys):
        speed.update(
            {
                arm.name: {"seconds_per_step": 0.5 + 0.1 * index, "first_seconds": 0.0}
                for index, arm in enumerate(known)
            }
        )
        return speed

    def train(self, *, seed, steps, model, **settings):
        trained[seed, json.dumps(model), json.dumps(settings, sort_keys=True)] = steps
        return Trained(tmp_path, 1, steps, 1.0, 1.0, 1.0, [1.0])

    monkeypatch.setattr(recipe, "measure_speed", measured)
    monkeypatch.setattr(recipe, "quality", lambda *given: {})
    monkeypatch.setattr(Lab, "train", train)
    size = replace(SIZES["cpu"], preset="cifar10", model={}, batch_size=256, seconds=100.0)
    lab = Lab(size, tmp_path, only=("swiglu", "half"))
    result = recipe.run(replace(lab, size=replace(size, seeds=(0, 1))))
    assert [row["name"] for row in result["rows"]] == ["baseline", "swiglu", "half the batch"]
    for row in result["rows"]:
        assert row["steps"] == round(100 / speed[row["name"]]["seconds_per_step"])
    assert len(speed) == len(recipe.arms(lab)) > 12  # all are timed, whichever are trained
    usual = {"batch_size": 128, "head_draws": [2, 2, 1], "max_minutes": None}
    assert trained[1, "{}", json.dumps({**usual, "stage_strides": None})] == 200
    speed.clear()
    recipe.run(lab)  # finalists get the steps of the first comparison
    assert not speed


def test_the_recipe_says_how_long_compiling_took():
    def said(preset, *rows):
        rows = [{"settings": s, "first_seconds": t, "averages": {}} for s, t in rows]
        return recipe.notes({"size": {"preset": preset}, "rows": rows})

    plain = ({}, 42.0)
    assert "up to 42 s" in said("cifar10-quick", plain, ({"compile": False}, 50.0))[0]
    assert "up to 7 s" in said("digits", plain, ({"compile": True}, 7.0))[0]
    assert said("digits", plain) == []


@pytest.mark.parametrize("preset", ["digits", "cifar10", "cifar10-quick"])
def test_every_arm_of_the_recipe_changes_what_the_preset_has(preset, tmp_path):
    size = replace(SIZES["cpu"], preset=preset, model={})
    arms = recipe.arms(Lab(size, tmp_path))
    lab = Lab(size, tmp_path)
    usual = {"compile": False, **recipe.as_preset(lab), **get_preset(preset).train_model}
    for arm in arms[1:]:
        same_model = all(lab.shape().get(name) == value for name, value in arm.model.items())
        same = same_model and all(usual.get(name) == value for name, value in arm.settings.items())
        assert arm.tokenizer is not None or not same, arm.name
    assert len({arm.name for arm in arms}) == len(arms)
    # A tokenizer that the preset takes from elsewhere is not trained.
    trains = "name" not in get_preset(preset).tokenizer
    assert any(arm.tokenizer is not None for arm in arms) == trains


def test_one_model_has_one_training_however_it_is_asked_for(tmp_path):
    lab = Lab(SIZES["smoke"], tmp_path)

    def key(**model):
        return lab.configuration(model=model).output

    assert key() == key(num_stages=2, window_ends=None, stage_ratio=2, width=32)
    assert len({key(), key(num_stages=1), key(window_ends=[0.7, 1.0]), key(width=64)}) == 4
    assert key(coupling="correlated") != key()
