"""Second mechanism: a stage goes only part of the way, then hands over. Where should windows end,
which coupling should hand over, what should the transformer see, and does the re-noising matter?

The break condition of the mechanism is "quality degradation at stage boundaries", so beside the
distances the boundary score of the latents is measured (1 = no trace of the 2x2 grid that
upsampling leaves; the data's own score stands beside it).
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from ecar_lab.baselines import load_pipeline
from ecar_lab.doctor.probe import sample_latents
from ecar_lab.evaluation.metrics import boundary_score
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.records import Trained
from ecar_lab.experiments.lab.scores import plus_minus, spread
from ecar_lab.experiments.lab.studies import ALIKE, Variant, measure, train_all
from ecar_lab.schedule import even_window_ends, plan_text

FIRST_ENDS = (0.3, 0.5, 0.7, 0.85)
STEPS = {"smoke": (2,), "cpu": (2, 4, 8), "gpu": (2, 4, 8, 16)}
BOUNDARY_STEPS = 8
BOUNDARY_IMAGES = 256
DEFAULT = "end 0.5, independent, history"
EVEN: dict[str, Any] = {"window_ends": None}  # whatever a preset has: from 0.5, or all 1 (restart)


def variants(lab: Lab) -> list[Variant]:
    """Window ends under the default coupling, then couplings and histories at the default ends."""
    count = lab.shape()["num_stages"]
    ends = [Variant(f"first window ends at {first:g}", model=windows(first, count))
            for first in FIRST_ENDS if first != 0.5]  # fmt: skip
    known = [
        Variant(DEFAULT, model=EVEN),
        *ends,
        Variant("independent, no history", model={"history": "none", **EVEN}),
        Variant(
            "correlated, no history", model={"coupling": "correlated", "history": "none", **EVEN}
        ),
        Variant("correlated, history (leak)", model={"coupling": "correlated", **EVEN}),
        Variant("full denoise per scale", model={"coupling": "restart", **EVEN}),
    ]
    return lab.wanted(known, DEFAULT)


def windows(first: float, num_stages: int) -> dict[str, Any]:
    """Ends spread evenly from ``first`` to 1."""
    default = even_window_ends(num_stages)  # from 0.5: the same spacing, stretched
    ends = [1 - (1 - end) * (1 - first) / (1 - default[0]) for end in default]
    return {"window_ends": [round(end, 6) for end in ends]}


def run(lab: Lab) -> dict[str, Any]:
    """Every variant at several steps per stage; re-noising off on the default."""
    arms = variants(lab)
    runs = train_all(lab, arms)
    rows = [
        {
            "name": arm.name,
            "model": arm.model,
            "loss_stage": runs[arm.name][0].loss_stage,
            "quality": [measure(lab, runs[arm.name], k) for k in STEPS[lab.size.name]],
            "boundary": boundary(lab, runs[arm.name]),
        }
        for arm in lab.each(arms, "sampling")
    ]
    default = runs[DEFAULT]
    rows.append(
        {
            "name": "re-noising left out",
            "model": {},
            "loss_stage": default[0].loss_stage,
            "quality": [
                measure(lab, default, k, renoise=False) for k in STEPS[lab.size.name]
            ],
            "boundary": boundary(lab, default, renoise=False),
        }
    )  # fmt: skip
    return {"rows": rows, "boundary_of_data": data_boundary(lab, default[0])}


def boundary(lab: Lab, runs: list[Trained], **options: Any) -> dict[str, Any]:
    """Boundary score of generated latents, over seeds."""
    usual: dict[str, Any] = {
        "num_inference_steps": BOUNDARY_STEPS,
        "guidance_scale": None,
        **ALIKE,
        "dtype": None,
    }
    scores = []
    for trained in runs:
        pipe = load_pipeline(trained.folder).to(lab.torch_device)
        pipe.set_progress_bar_config(disable=True)
        latents = sample_latents(pipe, BOUNDARY_IMAGES, **usual, **options)
        scores.append(boundary_score(latents))
    return spread(scores)


def data_boundary(lab: Lab, trained: Trained) -> float:
    """Boundary score of real images' latents."""
    from ecar_lab.data import open_dataset
    from ecar_lab.data.feeds import to_float
    from ecar_lab.presets import get_preset

    pipe = load_pipeline(trained.folder).to(lab.torch_device)
    name = get_preset(lab.size.preset).dataset
    data = open_dataset(
        name, split="test", image_size=pipe.image_size, data_root=lab.data_root, limit=1000
    )
    with torch.inference_mode():
        latent = pipe.tokenizer.encode(to_float(data.arrays()[0]).to(lab.torch_device))
    return boundary_score(latent)


def draw(result: dict[str, Any]) -> Figure:
    """Distance of every variant at the middle step count, and its boundary score."""
    figure, (quality, edges) = figures.new_figure(2, width=5.4, height=4)
    rows = result["rows"]
    names, middle = [row["name"] for row in rows], len(rows[0]["quality"]) // 2
    entries = [row["quality"][middle] for row in rows]
    figures.bars(quality, names, [entry["frechet"] for entry in entries])
    steps = plan_text(entries[0]["steps"])
    quality.set_xlabel(f"Frechet distance, {steps} steps")
    figures.bars(edges, names, [row["boundary"] for row in rows])
    edges.axvline(result["boundary_of_data"], color="#1B1F24", linestyle="--", linewidth=1)
    edges.annotate(
        "data", (result["boundary_of_data"], -0.6), ha="center", va="bottom", fontsize=8,
        annotation_clip=False,
    )  # fmt: skip
    edges.set_yticklabels([])
    edges.set_xlabel("boundary score of the latents")
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per variant."""
    counts = [entry["steps"][0] for entry in result["rows"][0]["quality"]]
    rows = [
        [
            row["name"],
            *(plus_minus(entry["frechet"]) for entry in row["quality"]),
            plus_minus(row["boundary"]),
            ", ".join(f"{loss:.3f}" for loss in row["loss_stage"]),
        ]
        for row in result["rows"]
    ]
    header = [
        *("", *(f"Frechet, {count} steps" for count in counts)),
        *("boundary score", "training loss per stage"),
    ]
    note = f"Boundary score of the data's latents: {result['boundary_of_data']:.2f}."
    return f"{figures.markdown_table(header, rows)}\n\n{note}"
