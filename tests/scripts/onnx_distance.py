"""How far exports are from PyTorch, and how large: the table of docs/onnx.md.

python tests/scripts/onnx_distance.py cifar10-turbo
"""

import sys
import tempfile
from pathlib import Path

import torch

from ecar_lab.files import resolve_checkpoint
from ecar_lab.onnx.export import load_ecar, write_export
from ecar_lab.onnx.exported import Exported
from ecar_lab.onnx.graphs import trace_graphs
from ecar_lab.onnx.pipeline import OnnxPipeline
from ecar_lab.onnx.weights import PRECISIONS

SEEDS = list(range(10))


def main(name: str) -> None:
    checkpoint = resolve_checkpoint(name)
    pipe = load_ecar(checkpoint)
    graphs = trace_graphs(pipe.model, pipe.tokenizer)
    labels = [seed % pipe.model.num_classes for seed in SEEDS]
    *_, wanted = pipe.trace(labels, generator=[torch.Generator().manual_seed(s) for s in SEEDS])
    images = pipe.tokenizer.decode(wanted.latent)
    print(
        f"| `{name}` | MB | latent, furthest from PyTorch | image, least PSNR |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as place:
        for weights in PRECISIONS:
            folder = write_export(pipe, graphs, Path(place) / weights, weights, checkpoint)
            size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            ours = OnnxPipeline(Exported(folder))
            *_, made = ours.trace(labels, seeds=SEEDS)
            distance = (made.latent - wanted.latent).abs().max().item()
            error = (ours.tokenizer.decode(made.latent) - images).div(2).square().mean((1, 2, 3))
            psnr = -10 * error.log10().max().item()
            print(f"| {weights} | {size:.1f} | {distance:.1e} | {psnr:.1f} dB |")


if __name__ == "__main__":
    main(sys.argv[1])
