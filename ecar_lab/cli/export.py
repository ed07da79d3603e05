"""`ecar export onnx`: a checkpoint as a folder that runs without PyTorch."""

from __future__ import annotations

from diffusers.utils import logging

from ecar_lab.cli.switches import parse_call
from ecar_lab.onnx.export import export


def onnx(arguments: list[str]) -> None:
    logging.disable_progress_bar()  # loading two files needs none
    folder = export(**parse_call(export, "export onnx", arguments))
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: graphs, weights and manifest.json, {megabytes:.1f} MB")
