"""How to sample: steps per stage, guidance per stage, Euler or Heun; quality against FLOPs.

Measured on a shipped checkpoint, so nothing is trained. The front is what no other setting beats in
both distance and FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ecar_lab.cost import total_flops
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import frechet, named, named_right

CHECKPOINT = {"smoke": "digits", "cpu": "cifar10", "gpu": "cifar10"}
GUIDANCE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
BEST = 2.5  # the guidance that per-stage settings switch on and off
Setting = dict[str, Any]


def settings(stages: int, size: str) -> list[Setting]:
    """Every way of sampling that is tried, for a model with so many stages."""
    if size == "smoke":
        return [_setting("steps", [2] * stages, [1.0] * stages)]
    usual = [8, *[6] * (stages - 1)]
    found = [_setting("guidance", usual, [scale] * stages) for scale in GUIDANCE]
    for on in _patterns(stages):
        found.append(_setting("guidance per stage", usual, [BEST if s else 1.0 for s in on]))
    for steps in _step_lists(stages):
        found.append(_setting("steps", steps, [BEST] * stages))
    for count in (2, 4):
        found.append(_setting("Heun", [count] * stages, [BEST] * stages, "heun"))
    return found


def _setting(kind: str, steps: list[int], scale: list[float], solver: str = "euler") -> Setting:
    return {
        "kind": kind,
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "solver": solver,
    }


def _patterns(stages: int) -> list[tuple[int, ...]]:
    """Guidance on up to a stage only, and from a stage on only."""
    early = [tuple(int(s <= last) for s in range(stages)) for last in range(stages - 1)]
    late = [tuple(int(s >= first) for s in range(stages)) for first in range(1, stages)]
    return [*early, *late]


def _step_lists(stages: int) -> list[list[int]]:
    """Equal steps; and many for the coarse stages with few for the fine ones, or the reverse."""
    equal = [[count] * stages for count in (1, 2, 3, 4, 6, 12, 24)]
    falling = [[max(1, 8 // 2**stage) for stage in range(stages)]]
    falling.append([max(2, 16 // 2**stage) for stage in range(stages)])
    return [*equal, *falling, falling[0][::-1]]


def run(lab: Lab) -> dict[str, Any]:
    """One row per setting."""
    from ecar_lab.baselines import load_pipeline

    checkpoint = CHECKPOINT[lab.size.name]
    model = load_pipeline(checkpoint).model
    rows = []
    for setting in lab.each(settings(len(model.sides), lab.size.name), "sampling"):
        arguments = {name: value for name, value in setting.items() if name != "kind"}
        result = lab.evaluate(checkpoint, **arguments)
        flops = model.flops(
            setting["num_inference_steps"], setting["guidance_scale"], setting["solver"]
        )
        rows.append(
            {
                **setting,
                "gflop": total_flops(flops) / 1e9,
                "frechet": frechet(result),
                "precision": named(result["metrics"], ["precision"]),
                "recall": named(result["metrics"], ["recall"]),
                "named_right": named_right(result),
            }
        )
    mark_front(rows)
    return {"checkpoint": checkpoint, "rows": rows}


def mark_front(rows: list[dict[str, Any]]) -> None:
    """Sets ``on_front``: no other row is at least as good in distance and FLOPs and better in
    one."""

    def beats(other: dict[str, Any], row: dict[str, Any]) -> bool:
        pairs = [(other[name], row[name]) for name in ("frechet", "gflop")]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    for row in rows:
        row["on_front"] = not any(beats(other, row) for other in rows)


def front(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings on the front, the cheapest first."""
    return sorted((row for row in rows if row["on_front"]), key=lambda row: row["gflop"])


def draw(result: dict[str, Any]) -> Figure:
    """Distance over FLOPs with the front; distance and class accuracy over guidance."""
    figure, (pareto, guidance) = figures.new_figure(2, width=5)
    rows = result["rows"]
    for index, kind in enumerate(dict.fromkeys(row["kind"] for row in rows)):
        points = [row for row in rows if row["kind"] == kind]
        x, y = [p["gflop"] for p in points], [p["frechet"] for p in points]
        figures.line(pareto, kind, x, y, index, linestyle="none")
    best = front(rows)
    pareto.step(
        [row["gflop"] for row in best], [row["frechet"] for row in best],
        where="post", color="#59626E", linewidth=1, zorder=0, label="front",
    )  # fmt: skip
    figures.logarithmic(pareto, "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    pareto.set_title(f"{result['checkpoint']}: ways of sampling", fontsize=10, loc="left")
    pareto.legend(frameon=False, fontsize=8)
    scales = [row for row in rows if row["kind"] == "guidance"]
    x = [row["guidance_scale"][0] for row in scales]
    figures.line(guidance, "Frechet distance", x, [row["frechet"] for row in scales], 0)
    shares = guidance.twinx()
    for index, name in enumerate(("precision", "recall"), start=1):
        figures.line(shares, name, x, [row[name] for row in scales], index)
    if x and scales[0]["named_right"] is not None:
        figures.line(shares, "named right", x, [row["named_right"] for row in scales], 3)
    shares.set(ylim=(0, 1), ylabel="share")
    guidance.set(xlabel="guidance, all stages", ylabel="Frechet distance")
    both = [axis.get_legend_handles_labels() for axis in (guidance, shares)]
    figure.legend(
        [handle for handles, _ in both for handle in handles],
        [label for _, labels in both for label in labels],
        loc="outside lower right", ncols=4, fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per setting, in the order of cost; those on the front are marked."""
    rows = [
        [
            "yes" if row["on_front"] else "",
            " + ".join(map(str, row["num_inference_steps"])),
            ", ".join(f"{scale:g}" for scale in row["guidance_scale"]),
            row["solver"],
            f"{row['gflop']:.2f}",
            f"{row['frechet']:.2f}",
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
            "-" if row["named_right"] is None else f"{row['named_right']:.1%}",
        ]
        for row in sorted(result["rows"], key=lambda row: row["gflop"])
    ]
    header = [
        *("on the front", "steps", "guidance", "solver", "GFLOP", "Frechet distance"),
        *("precision", "recall", "named right"),
    ]
    return figures.markdown_table(header, rows)
