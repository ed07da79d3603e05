"""Exports to ONNX that tests of runtime and page share: to trace a graph takes seconds."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecar_lab.onnx.export import load_ecar, write_export
from ecar_lab.onnx.exported import Exported
from ecar_lab.onnx.graphs import trace_graphs
from ecar_lab.onnx.pipeline import OnnxPipeline
from ecar_lab.onnx.weights import PRECISIONS
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.makers import IdentityTokenizer
from tests.conftest import tiny_model
from tests.thrift import made_once

# Guided in one stage and half of another, on uneven steps; windows in the second stage, shifted in
# its second block; the transition that needs block means.
VELOCITY = dict(
    guidance_scale=[2.0, 3.0],
    guidance_interval=[[0.0, 1.0], [0.0, 0.5]],
    num_inference_steps=[3, 4],
    time_power=[1.0, 1.3],
    head_layers=2,
    attention_window=2,
    local_mixing=True,
    coupling="correlated",
)
FEW_STEP = dict(
    mode="few-step", num_inference_steps=[4, 2], guidance_scale=[1.0, 2.5], local_mixing=True
)


class Pair(NamedTuple):
    """A pipeline, and the folder of its checkpoint and of its exports."""

    torch: ECARPipeline
    place: Path

    @property
    def checkpoint(self) -> Path:
        return self.place / "checkpoint"

    def folder(self, weights: str) -> Path:
        return self.place / weights

    def onnx(self, weights: str) -> OnnxPipeline:
        return OnnxPipeline(Exported(self.folder(weights), threads=1))


def velocity(factory: pytest.TempPathFactory) -> Pair:
    """A tiny pipeline whose head gives velocities, and its exports."""
    return exported(factory, "velocity", VELOCITY)


def few_step(factory: pytest.TempPathFactory) -> Pair:
    """A tiny pipeline with a few-step head, and its exports, which hold the encoder."""
    return exported(factory, "few-step", FEW_STEP, encoder=True)


def exported(
    factory: pytest.TempPathFactory, name: str, model: dict[str, Any], encoder: bool = False
) -> Pair:
    """A tiny pipeline and its exports in every precision; only to be read."""

    def make(place: Path) -> None:
        pipe = ECARPipeline(model=tiny_model(**model), tokenizer=IdentityTokenizer())
        pipe.save_pretrained(place / "checkpoint")
        pipe = load_ecar(place / "checkpoint")
        graphs = trace_graphs(pipe.model, pipe.tokenizer, encoder)
        for weights in PRECISIONS:
            write_export(pipe, graphs, place / weights, weights, place / "checkpoint")

    place = made_once(factory, name, make)
    return Pair(load_ecar(place / "checkpoint"), place)
