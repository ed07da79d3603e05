"""Exports that the tests share. To trace a graph takes a second or two, so each is traced once."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ecar_lab.onnx.export import load_ecar, write_export
from ecar_lab.onnx.exported import Exported
from ecar_lab.onnx.graphs import trace_graphs
from ecar_lab.onnx.pipeline import OnnxPipeline
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import IdentityTokenizer
from tests.conftest import tiny_model

# Guided in one stage and half of another, on uneven steps; windows in the second stage, shifted in
# its second block; the transition that needs block means.
TINY = dict(
    guidance_scale=[2.0, 3.0],
    guidance_interval=[[0.0, 1.0], [0.0, 0.5]],
    num_inference_steps=[3, 4],
    time_power=[1.0, 1.3],
    head_layers=2,
    attention_window=2,
    local_mixing=True,
    coupling="correlated",
)


class Pair(NamedTuple):
    """A pipeline, and its exports by the precision of their weights."""

    torch: ECARPipeline
    folder: Callable[[str], Path]

    def onnx(self, weights: str) -> OnnxPipeline:
        return OnnxPipeline(Exported(self.folder(weights), threads=1))


def make_pair(checkpoint: Path, place: Path) -> Pair:
    pipe = load_ecar(checkpoint)
    graphs = trace_graphs(pipe.model, pipe.tokenizer)

    def folder(weights: str) -> Path:
        if not (place / weights).exists():
            write_export(pipe, graphs, place / weights, weights, checkpoint)
        return place / weights

    return Pair(pipe, folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny pipeline whose head gives velocities, and its exports."""
    place = tmp_path_factory.mktemp("tiny")
    pipe = ECARPipeline(model=tiny_model(**TINY), tokenizer=IdentityTokenizer())
    pipe.save_pretrained(place / "checkpoint")
    return make_pair(place / "checkpoint", place)


@pytest.fixture(scope="session")
def few_step(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny pipeline with a few-step head, and its exports."""
    place = tmp_path_factory.mktemp("few-step")
    model = tiny_model(
        mode="few-step", num_inference_steps=[4, 2], guidance_scale=[1.0, 2.5], local_mixing=True
    )
    pipe = ECARPipeline(model=model, tokenizer=IdentityTokenizer())
    pipe.save_pretrained(place / "checkpoint")
    return make_pair(place / "checkpoint", place)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the person who runs it."""
    monkeypatch.setenv("ECAR_CACHE", str(tmp_path / "cache"))
