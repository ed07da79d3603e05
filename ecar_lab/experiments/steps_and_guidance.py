"""How to sample: steps, guidance and solver, for the E-CAR that ships and for the DiT beside it;
quality against FLOPs.

Measured on shipped checkpoints, so nothing is trained. Each model has a front of its own: what no
other setting of it beats in both distance and FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ecar_lab.cost import total_flops
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import frechet, named, named_right
from ecar_lab.schedule import plan_text

CHECKPOINTS = {
    "smoke": {"E-CAR": "digits"},
    "cpu": {"E-CAR": "cifar10", "DiT": "cifar10-dit"},
    "gpu": {"E-CAR": "cifar10", "DiT": "cifar10-dit"},
}
GUIDANCE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
# What the other settings have in common: guidance from the second stage on, in the finest at its
# beginning; first steps that are the shorter ones. DiT is guided less.
BEST, BEST_END, BEST_POWER = 2.0, 0.3, 1.3
DIT_BEST, DIT_STEPS = 1.5, 12
ENDS, POWERS = (0.1, 0.3, 0.6), (1.0, 1.15, 1.3, 1.5)
Setting = dict[str, Any]


def settings(stages: int, size: str) -> list[Setting]:
    """Every way of sampling that is tried, for a model with so many stages; one stage is DiT."""
    if size == "smoke":
        return [
            _setting("steps", [2] * stages, [1.0] * stages),
            _setting("interval", [2] * stages, [2.0] * stages, [0.5] * stages),
        ]
    return list(_of_dit() if stages == 1 else _of_stages(stages))


def _of_stages(stages: int) -> Iterator[Setting]:
    usual, later = [4] * stages, stages - 1
    late, ends = [1.0, *[BEST] * later], [*[1.0] * later, BEST_END]
    grid = [1.0, *[BEST_POWER] * later]
    for scale in GUIDANCE:
        yield _setting("guidance", usual, [scale] * stages, powers=grid)
    for on in _patterns(stages):
        scales = [BEST if s else 1.0 for s in on]
        yield _setting("guidance per stage", usual, scales, powers=grid)
    for end in ENDS:
        yield _setting("interval", usual, late, [*ends[:-1], end], grid)
    yield _setting("interval", usual, late, [*ends[:-2], BEST_END, BEST_END], grid)
    for power in POWERS:
        if power != BEST_POWER:
            yield _setting("grid", usual, late, ends, [1.0, *[power] * later])
    for steps in _step_lists(stages):
        yield _setting("steps", steps, late, ends, grid)
    for count in (4, 12, 24):
        yield _setting("Euler", [count] * stages, late, ends, solver="euler")
    for count in (2, 4):
        yield _setting("Heun", [count] * stages, late, ends, grid, "heun")


def _of_dit() -> Iterator[Setting]:
    for scale in GUIDANCE:
        yield _setting("DiT guidance", [DIT_STEPS], [scale])
    for end in ENDS:
        yield _setting("DiT interval", [DIT_STEPS], [DIT_BEST], [end])
    for power in POWERS[1:]:
        yield _setting("DiT grid", [DIT_STEPS], [DIT_BEST], powers=[power])
    for count in (5, 7, 9, 20, 50):
        yield _setting("DiT steps", [count], [DIT_BEST])
    for count in (7, 20, 50):
        yield _setting("DiT Euler", [count], [DIT_BEST], solver="euler")
    yield _setting("DiT Heun", [6], [DIT_BEST], solver="heun")


def _setting(
    kind: str,
    steps: list[int],
    scale: list[float],
    ends: list[float] | None = None,
    powers: list[float] | None = None,
    solver: str = "ab2",
) -> Setting:
    """``ends``: of guidance in each stage, in local time; None: it acts to the stages' ends.
    ``powers``: of the time grids; None: even steps."""
    return {
        "kind": kind,
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "guidance_interval": [[0.0, end] for end in ends or [1.0] * len(steps)],
        "time_power": powers or [1.0] * len(steps),
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
    return [*equal, *falling, [8, *[6] * (stages - 1)], falling[0][::-1]]


def run(lab: Lab) -> dict[str, Any]:
    """One row per model and setting."""
    checkpoints = CHECKPOINTS[lab.size.name]
    rows = [
        row for name, checkpoint in checkpoints.items() for row in measure(lab, name, checkpoint)
    ]
    return {"checkpoint": checkpoints["E-CAR"], "checkpoints": checkpoints, "rows": rows}


def measure(lab: Lab, name: str, checkpoint: str) -> list[dict[str, Any]]:
    """The rows of one model, those on its front marked."""
    from ecar_lab.baselines import load_pipeline

    model = load_pipeline(checkpoint).model
    rows = []
    for setting in lab.each(settings(len(model.sides), lab.size.name), f"sampling {name}"):
        arguments = {name: value for name, value in setting.items() if name != "kind"}
        result = lab.evaluate(checkpoint, **arguments)
        rows.append(
            {
                "model": name,
                **setting,
                "gflop": total_flops(model.flops(**arguments)) / 1e9,
                "frechet": frechet(result),
                "precision": named(result["metrics"], ["precision"]),
                "recall": named(result["metrics"], ["recall"]),
                "named_right": named_right(result),
            }
        )
    mark_front(rows)
    return rows


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


def of_models(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each model. (Results from before DiT was tried name none.)"""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault(row.get("model", "E-CAR"), []).append(row)
    return found


def draw(result: dict[str, Any]) -> Figure:
    """Distance over FLOPs with the fronts; distance and class accuracy over guidance."""
    figure, (pareto, guidance) = figures.new_figure(2, width=5)
    for name, rows in of_models(result).items():
        look: dict[str, Any] = {**figures.style(name), "markersize": 4}
        dots: dict[str, Any] = {**look, "linestyle": "none", "alpha": 0.35}
        x, y = [row["gflop"] for row in rows], [row["frechet"] for row in rows]
        pareto.plot(x, y, **dots)
        best = front(rows)
        pareto.step(
            [row["gflop"] for row in best], [row["frechet"] for row in best],
            where="post", linewidth=1.4, **look, label=f"{name}, front",
        )  # fmt: skip
    figures.logarithmic(pareto, "x", "y", xlabel="GFLOP per image", ylabel="Frechet distance")
    pareto.set_title(f"{result['checkpoint']}: ways of sampling", fontsize=10, loc="left")
    pareto.legend(frameon=False, fontsize=8)
    scales = [row for row in result["rows"] if row["kind"] == "guidance"]
    x = [row["guidance_scale"][0] for row in scales]
    figures.line(guidance, "Frechet distance", x, [row["frechet"] for row in scales], 0)
    shares = guidance.twinx()
    for index, name in enumerate(("precision", "recall"), start=1):
        figures.line(shares, name, x, [row[name] for row in scales], index)
    if x and scales[0]["named_right"] is not None:
        figures.line(shares, "classified correctly", x, [row["named_right"] for row in scales], 3)
    shares.set(ylim=(0, 1), ylabel="share")
    guidance.set(xlabel="guidance, all stages of E-CAR", ylabel="Frechet distance")
    both = [axis.get_legend_handles_labels() for axis in (guidance, shares)]
    figure.legend(
        [handle for handles, _ in both for handle in handles],
        [label for _, labels in both for label in labels],
        loc="outside lower right", ncols=4, fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per setting, each model's in the order of cost; those on its front are marked. What
    was measured as two kinds stands there once."""
    rows = [
        (
            name,
            "yes" if row["on_front"] else "",
            plan_text(row["num_inference_steps"]),
            figures.power_text(row),
            figures.guidance_text(row),
            row["solver"],
            f"{row['gflop']:.2f}",
            f"{row['frechet']:.2f}",
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
            "-" if row["named_right"] is None else f"{row['named_right']:.1%}",
        )
        for name, rows in of_models(result).items()
        for row in sorted(rows, key=lambda row: row["gflop"])
    ]
    header = [
        *("", "on the front", "steps", "power", "guidance", "solver", "GFLOP", "Frechet distance"),
        *("precision", "recall", "classified correctly"),
    ]
    return figures.markdown_table(header, [list(row) for row in dict.fromkeys(rows)])
