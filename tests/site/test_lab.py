"""The sampler in JavaScript is the one in numpy: the same noise, the same way, number by number."""

import ast
import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from apps.shared.painted import Painted
from ecar_lab.interventions import stage_end_of, stage_noise
from ecar_lab.onnx.export import numbers
from ecar_lab.onnx.exported import Manifest, StageNumbers
from ecar_lab.onnx.runtime import Event, Sampler, Settings, StageEnd
from tests.conftest import tiny_model

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node, which runs JavaScript, is not here")
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def by_node(script: str, given: Any) -> Any:
    """What a script of this folder writes when it is given this."""
    done = subprocess.run(
        [str(NODE), str(HERE / script)], input=json.dumps(given), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_numbers_are_those_of_torch():
    """For many seeds, one generator through sizes on both sides of 16."""
    pick = np.random.default_rng(0)
    seeds = [0, 1, 5489, 2**31, 2**32 - 1, 2**32 + 7, 2**63, 2**64 - 1, -1, -(2**63)]
    seeds += [int(seed) for seed in pick.integers(0, 2**62, 60)]
    sizes = [[1, 15, 16, 17, 0, 3, 31, 32, *pick.integers(0, 300, 8).tolist()] for _ in seeds]
    asked = [[str(seed), some] for seed, some in zip(seeds, sizes, strict=True)]
    for seed, some, drawn in zip(seeds, sizes, by_node("draw.mjs", asked), strict=True):
        theirs = torch.Generator().manual_seed(seed)
        for size, ours in zip(some, drawn, strict=True):
            wanted = torch.randn(size, generator=theirs).numpy()
            np.testing.assert_allclose(np.float32(ours), wanted, rtol=0, atol=1e-6)


class Transformer:
    """A stand-in of which everything that goes in has a share in what comes out."""

    def __init__(self, stage: int, last: int):
        self.stage, self.last = stage, last

    def run(self, arrays: dict[str, Any]) -> dict[str, Any]:
        labels = np.float32(arrays["class_labels"])[:, None]
        kept = np.float32(0.1) * labels + np.float32(self.stage)
        if "cache" in arrays:
            kept = np.concatenate([arrays["cache"], kept], axis=1)
        token_map = kept.sum(axis=1)[:, None, None]
        if "previous_end" in arrays:
            token_map = token_map + arrays["previous_end"].mean((1, 2, 3))[:, None, None]
        made = {"token_map": token_map, "read_map": token_map}
        return made if self.stage == self.last else {**made, "new_cache": kept}


class Head:
    """The same of a head."""

    def run(self, arrays: dict[str, Any]) -> dict[str, Any]:
        row = arrays["read_map"][:, :, :, None] * 0.1
        row = row + 0.1 * np.float32(arrays["class_labels"])[:, None, None, None]
        told = 0.2 * arrays["span"] + 0.05 * arrays["guidance"] if "span" in arrays else 0.0
        moved = np.cos(arrays["local_time"]) * np.float32(0.3) * arrays["state"] + row + told
        return {"velocity": moved.astype(np.float32)}


def stand_in(**model: Any) -> tuple[Manifest, dict[str, Any]]:
    """The manifest of a tiny model, and networks in place of its graphs."""
    said = numbers(tiny_model(**model), 1)
    last = len(said["stages"]) - 1
    graphs: dict[str, Any] = {}
    for stage, about in enumerate(said["stages"]):
        later = ("previous_end", "cache") if stage else ()
        graphs[about["transformer"]] = {"inputs": dict.fromkeys(("class_labels", *later))}
    said["stages"] = [StageNumbers(**about) for about in said["stages"]]
    around = dict(format=1, kit="", checkpoint="", fingerprint="", weights="float32", files={})
    manifest = Manifest(**around, **said, graphs=graphs)
    networks: dict[str, Any] = {}
    for stage, about in enumerate(manifest.stages):
        networks |= {about.transformer: Transformer(stage, last), about.head: Head()}
    return manifest, networks


@pytest.mark.parametrize(
    "model",
    [
        dict(coupling="independent"),
        dict(coupling="correlated", num_stages=3),
        dict(coupling="restart"),
        dict(mode="few-step"),
        dict(num_stages=1),
    ],
    ids=str,
)
def test_the_loop_goes_the_same_way_in_javascript(model):
    manifest, networks = stand_in(**model)
    exported: Any = SimpleNamespace(manifest=manifest, graphs=networks)
    solvers = ("ab2", "heun", "flow-map" if manifest.few_step else "euler")
    runs = [asked_for(len(manifest.stages), solver, *how) for solver in solvers for how in ASKED]
    runs += [
        dataclasses.replace(run, start_from=ended(manifest, stage), noise={})
        for stage in range(len(manifest.stages) - 1)
        for run in runs[:2]
    ]
    given = {"manifest": dataclasses.asdict(manifest), "runs": list(map(asdict, runs))}
    for settings, ours in zip(runs, by_node("sample.mjs", given), strict=True):
        check_events(ours, list(Sampler(exported, settings).run()))


def test_every_name_of_the_loop_is_there_in_javascript():
    sources = [ROOT / "site" / "lab" / name for name in ("engine.js", "arrays.js")]
    there = set(re.findall(r"[A-Za-z0-9]+", "".join(file.read_text() for file in sources)))
    loop = ast.parse((ROOT / "ecar_lab" / "onnx" / "runtime.py").read_text())
    bodies = [loop.body, *(node.body for node in loop.body if isinstance(node, ast.ClassDef))]
    names = {node.name for body in bodies for node in body if isinstance(node, ast.FunctionDef)}
    names -= {"__init__"}
    assert len(names) > 20
    wanted = {re.sub(r"_(\w)", lambda m: m[1].upper(), name.strip("_")) for name in names}
    assert sorted(wanted - there) == []


def ended(manifest: Manifest, stage: int) -> StageEnd:
    """A stage's end that some other run may have had, of three images."""
    draw = np.random.default_rng(stage)
    sides = [about.resolution for about in manifest.stages[: stage + 1]]
    ends = [draw.normal(size=(3, manifest.latent_channels, r, r)).astype(np.float32) for r in sides]
    return StageEnd(tuple(ends), 0.5 * ends[-1])


def asdict(run: Settings) -> dict[str, Any]:
    """A run's settings as JSON can say them."""
    start = run.start_from
    written = dataclasses.asdict(dataclasses.replace(run, start_from=None))
    if start is not None:
        written["start_from"] = {
            "history": list(map(as_array, start.history)),
            "clean_estimate": as_array(start.clean_estimate),
        }
    return written


def as_array(array: Any) -> dict[str, Any]:
    return {"data": np.asarray(array).ravel().tolist(), "dims": list(array.shape)}


# Guidance, its interval, the power of the times, whether noise is added again.
ASKED = (
    (1.0, (0.0, 1.0), 1.0, True),
    (2.5, (0.2, 0.7), 1.3, True),
    (3.0, (0.0, 0.5), 1.0, False),
)


def asked_for(stages: int, solver: str, guidance, interval, power, renoise) -> Settings:
    return Settings(
        labels=[0, 2, 1],
        seeds=[5, 2**40 + 1, 7],
        steps=[3, 4, 2][:stages],
        guidance=[guidance, guidance, 1.0][:stages],  # a third stage needs no second half
        intervals=[interval] * stages,
        powers=[power] * stages,
        solver=solver,
        renoise=renoise,
    )


def check_events(ours: list[dict[str, Any]], theirs: list[Event]) -> None:
    assert [(e["stage"], e["step"], e["t"]) for e in ours] == [
        (e.stage, e.step, pytest.approx(e.t)) for e in theirs
    ]
    for mine, yours in zip(ours, theirs, strict=True):
        assert tuple(mine["shape"]) == yours.latent.shape
        for name in ("latent", "clean_estimate"):
            wanted = getattr(yours, name)
            np.testing.assert_allclose(
                np.reshape(mine[name], wanted.shape), wanted, rtol=1e-4, atol=2e-5
            )
        assert (mine["velocity_norm"] is None) == (yours.velocity_norm is None)
        if yours.velocity_norm is not None:
            np.testing.assert_allclose(mine["velocity_norm"], yours.velocity_norm, rtol=1e-4)


@pytest.mark.parametrize("coupling", ["independent", "correlated", "restart"])
def test_a_painting_takes_the_place_of_the_same_stages(coupling):
    """The noise of a run's stages and the end states that a picture has, beside torch's own."""
    model = tiny_model(coupling=coupling, num_stages=3)
    seeds, size = [3, 2**33 + 1], 8
    noise = [
        torch.cat(stage) for stage in zip(*(stage_noise(model, s) for s in seeds), strict=True)
    ]
    latent = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    colours = [f"#{value:06x}" for value in np.random.default_rng(0).integers(0, 2**24, 16)]
    given = {
        "manifest": numbers(model, 1),
        "seeds": list(map(str, seeds)),
        "latent": as_array(latent),
        "colours": colours,
        "size": size,
    }
    made = by_node("paint.mjs", given)
    for ours, theirs in zip(made["noise"], noise, strict=True):
        np.testing.assert_allclose(np.reshape(ours["data"], theirs.shape), theirs, atol=1e-6)
    for stage, ours in enumerate(made["ends"]):
        theirs = stage_end_of(model, latent, stage, [0, 1], noise)
        wanted = (*theirs.history, theirs.latent, theirs.clean_estimate)
        for mine, yours in zip((*ours["history"], ours["cleanEstimate"]), wanted, strict=True):
            np.testing.assert_allclose(np.reshape(mine["data"], yours.shape), yours, atol=1e-5)
    picture = Painted.of(0, colours).picture(size)
    painted = np.reshape(made["picture"]["data"], picture.shape)
    np.testing.assert_allclose(painted, picture, atol=1e-6)
