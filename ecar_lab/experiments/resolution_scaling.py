"""The seed's third experiment: which number of stages and which ratio of resolutions.

The same model with stages that grow by two or by four, few stages or many, one step count per
stage: what comes out, and what it costs on this machine.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import plus_minus
from ecar_lab.experiments.lab.studies import (
    Variant,
    measure,
    stages,
    time_runs,
    train_all,
    with_room,
)

STEPS = {"smoke": (2,), "cpu": (2, 4, 8), "gpu": (2, 4, 8, 16)}
TIMED_STEPS = 4
# number of stages, ratio of neighbouring resolutions
PYRAMIDS = ((1, 2), (2, 2), (3, 2), (4, 2), (2, 4), (2, 8))


def arms(lab: Lab) -> list[Variant]:
    """One per pyramid that the latent has room for, e.g. 2 -> 4 -> 8."""
    found = []
    base = with_room(lab)
    shape = lab.shape(**base.model)
    finest = 8 if lab.size.preset == "digits" else shape["latent_size"]
    for count, ratio in PYRAMIDS:
        sides = [finest // ratio ** (count - 1 - stage) for stage in range(count)]
        if finest % (shape["patch_size"] * ratio ** (count - 1)):
            continue
        model = {**base.model, **stages(count), "stage_ratio": ratio}
        found.append(
            Variant(" → ".join(map(str, sides)), model=model, settings=dict(base.settings))
        )
    return found


def run(lab: Lab) -> dict[str, Any]:
    """Quality and cost of every pyramid at equal images seen."""
    pyramids = arms(lab)
    runs = train_all(lab, pyramids)
    time = time_runs(lab, {name: trained[0] for name, trained in runs.items()}, TIMED_STEPS)
    rows = [
        {
            "name": arm.name,
            "model": arm.model,
            **time[arm.name],
            "train_pflop": runs[arm.name][0].train_flops / 1e15,
            "quality": [measure(lab, runs[arm.name], k) for k in STEPS[lab.size.name]],
        }
        for arm in lab.each(pyramids, "sampling")
    ]
    return {"rows": rows, "timed_steps": TIMED_STEPS, "best": best(rows)}


def best(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The pyramid with the smallest distance at each step count."""
    counts = [entry["steps"][0] for entry in rows[0]["quality"]]
    return {
        str(count): min(rows, key=lambda row: row["quality"][index]["frechet"]["mean"])["name"]
        for index, count in enumerate(counts)
    }


def draw(result: dict[str, Any]) -> Figure:
    """Quality over FLOPs, and time per image."""
    figure, (quality, time) = figures.new_figure(2)
    for index, row in enumerate(result["rows"]):
        entries = row["quality"]
        x, y = [e["gflop"] for e in entries], [e["frechet"] for e in entries]
        figures.line(quality, row["name"], x, y, index)
    figures.logarithmic(quality, "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    quality.set_title("Resolutions of the stages", fontsize=10, loc="left")
    quality.legend(frameon=False, fontsize=8)
    names = [row["name"] for row in result["rows"]]
    figures.bars(time, names, [row["seconds_per_image"] * 1e3 for row in result["rows"]])
    time.set_xlabel(f"ms per image, {result['timed_steps']} steps per stage, batch 16")
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per pyramid."""
    counts = [entry["steps"][0] for entry in result["rows"][0]["quality"]]
    rows = [
        [
            row["name"],
            *(plus_minus(entry["frechet"]) for entry in row["quality"]),
            f"{row['quality'][-1]['gflop']:.3g}",
            f"{row['seconds_per_image'] * 1e3:.2f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in result["rows"]
    ]
    header = [
        "resolutions",
        *(f"Frechet, {count} steps" for count in counts),
        f"GFLOP, {counts[-1]} steps",
        f"ms per image, {result['timed_steps']} steps",
        "peak MiB",
    ]
    return figures.markdown_table(header, rows)
