"""How FLOPs, time and memory of generating one image grow from 64 to 1024 px, beside the theory.

The paper's claim: token by token costs O(n^3) for an image of n tokens, E-CAR O(n^2), because all
tokens of a stage are made at once. Here n counts the tokens of the full-size latent (factor 8,
patches of 2). Weights are random, there is no guidance, and no decoder is counted.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from ecar_lab.baselines import build
from ecar_lab.baselines.token_cost import tokens_per_event
from ecar_lab.benchmark.peers import DIT_STEPS, MAR_HEAD_STEPS, MAR_ITERATIONS, SCALE_STEPS
from ecar_lab.benchmark.timing import open_gates, place
from ecar_lab.cost import total_flops
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.growth import attention_part, fits, growth
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.parts import Part, memory_of_image, spread_over, time_image
from ecar_lab.generator import LatentGenerator
from ecar_lab.machine import matmul_rate
from ecar_lab.schedule import MAX_STAGES

FACTOR, PATCH, CHANNELS = 8, 2, 4
COARSEST = 4  # latent pixels a side of the first stage, where the number of stages allows it
PART = Part(steps=4, tokens=12)

# Flow steps of E-CAR's stages, counted from the finest: as in the presets, and like the coarse ones
# where there are more stages. One stage walks as many as five stages do together.
ECAR_STEPS = (4, 4, 3, 3, 2)
ONE_STAGE_STEPS = sum(ECAR_STEPS)


@dataclass(frozen=True)
class Setting:
    """What a size measures.

    Attributes:
        shape: of E-CAR. seconds: how long the timing of one image may take. Work that is expected
            to take longer is not timed: its FLOPs stand alone. window: see ``ECAR``; 16 tokens a
            side are as many as the finest stage has at 256 px.
    """

    shape: dict[str, Any]
    seconds: float
    window: int = 16


SETTINGS = {
    "smoke": Setting(
        dict(width=64, num_heads=2, transformer_layers=1, head_layers=2), seconds=2, window=8
    ),
    "cpu": Setting(dict(width=192, num_heads=3, transformer_layers=4, head_layers=8), seconds=60),
    "gpu": Setting(dict(width=384, num_heads=6, transformer_layers=4, head_layers=8), seconds=300),
}


@dataclass(frozen=True)
class Arm:
    """One way to generate.

    Attributes:
        name: as figures and tables call it. architecture, options: see ``baselines.build``.
        steps: flow steps per stage, from the number of stages. theory: growth of the FLOPs with n,
            and without attention, as exponents. kv_cache: False runs the transformer over all
            earlier tokens again for each new one. windows: see ``ECAR.attention_window``.
    """

    name: str
    architecture: str
    steps: Callable[[int], list[int]]
    theory: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)
    kv_cache: bool = True
    windows: bool = False

    def build(self, pixels: int, setting: Setting) -> LatentGenerator:
        """The model for images of so many pixels a side, with random weights."""
        window = {"attention_window": setting.window} if self.windows else {}
        shape = shape_at(pixels, setting.shape)
        return open_gates(build(self.architecture, shape, **self.options, **window)).eval()

    def flops(self, model: Any, steps: Sequence[int]) -> int:
        """Of one image, in closed form."""
        cache = {} if self.kv_cache else {"kv_cache": False}
        return total_flops(model.flops(list(steps), 1.0, **cache))


ARMS = (
    Arm("E-CAR", "ecar", lambda stages: list(ECAR_STEPS[-stages:]), (2, 1)),
    Arm(
        "E-CAR, windows",
        "ecar",
        lambda stages: list(ECAR_STEPS[-stages:]),
        (1, 1),
        windows=True,
    ),
    Arm("full denoise per scale", "full-denoise", lambda stages: [SCALE_STEPS] * stages, (2, 1)),
    Arm(
        "one stage",
        "ecar",
        lambda stages: [ONE_STAGE_STEPS],
        (2, 1),
        {"num_stages": 1, "window_ends": None},
    ),
    Arm("DiT", "dit", lambda stages: [DIT_STEPS[0]], (2, 1)),
    Arm(
        "masked AR",
        "mar-masked",
        lambda stages: [MAR_HEAD_STEPS],
        (2, 1),
        {"num_iterations": MAR_ITERATIONS},
    ),
    Arm("token by token", "mar", lambda stages: [MAR_HEAD_STEPS], (2, 1)),
    Arm(
        "token by token, no KV cache",
        "mar",
        lambda stages: [MAR_HEAD_STEPS],
        (3, 2),
        kv_cache=False,
    ),
)


def run(lab: Lab) -> dict[str, Any]:
    """Every arm at every size: FLOPs in closed form, seconds and memory where affordable."""
    setting = SETTINGS[lab.size.name]
    rate = matmul_rate(lab.torch_dtype, lab.torch_device)
    rows: list[dict[str, Any]] = []
    gc.freeze()  # or every measurement of memory would look through all modules loaded so far
    for arm in ARMS:  # what a process does once, at the first call, is not any arm's cost
        model = place(arm.build(lab.size.pixels[0], setting), lab.torch_device, lab.torch_dtype)
        time_image(model, [1] * len(model.sides), PART, arm.kv_cache)
    jobs = [(pixels, arm) for pixels in lab.size.pixels for arm in ARMS]
    for pixels, arm in lab.each(jobs, "generating"):
        known = [row for row in rows if row["name"] == arm.name and row["seconds"] is not None]
        # FLOP/s of this arm at the last size; before that a careful guess
        speed = known[-1]["gflop"] * 1e9 / known[-1]["seconds"] if known else rate / 20
        rows.append(measure(lab, arm, pixels, setting, speed))
    gc.unfreeze()
    return {
        "matmul_flops_per_second": rate,
        "shape": setting.shape,
        "attention_window": setting.window,
        "mar_iterations": MAR_ITERATIONS,
        "theory": {arm.name: list(arm.theory) for arm in ARMS},
        "largest_timed_seconds": setting.seconds,
        "rows": rows,
        "fits": {arm.name: fits(rows, arm.name) for arm in ARMS},
        "growth": {arm.name: growth(rows, arm.name) for arm in ARMS},
    }


def shape_at(pixels: int, shape: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the E-CAR for images of so many pixels a side: as many stages as fit."""
    latent = pixels // FACTOR
    stages = min(MAX_STAGES, 1 + max(0, int(math.log2(latent // COARSEST))))
    return {
        **shape,
        **{"latent_size": latent, "latent_channels": CHANNELS, "patch_size": PATCH},
        **{"num_stages": stages, "num_classes": 10},
    }


def measure(lab: Lab, arm: Arm, pixels: int, setting: Setting, speed: float) -> dict[str, Any]:
    """One row: an arm at one image size; ``speed`` in FLOP/s is what it is expected to reach."""
    model = arm.build(pixels, setting)
    steps = arm.steps(len(model.sides))
    flops = arm.flops(model, steps)
    row = {
        "name": arm.name,
        "pixels": pixels,
        "tokens": (pixels // FACTOR // PATCH) ** 2,
        "stages": len(model.sides),
        "steps": steps,
        "parameters": model.num_parameters(),
        "gflop": flops / 1e9,
        "attention_share": attention_part(model, steps, arm.kv_cache) / flops,
        "expected_seconds_of_timing": flops * timed_share(model, arm, steps) / speed,
        **{"seconds": None, "timed_part": None, "repeats": 0, "peak_mib": None},
    }
    if row["expected_seconds_of_timing"] > setting.seconds:
        return row
    place(model, lab.torch_device, lab.torch_dtype)
    started = time.perf_counter()
    timings = [time_image(model, steps, PART, arm.kv_cache)]
    if time.perf_counter() - started < setting.seconds / 10:
        # the first was a warm-up; where one takes long, it is not needed
        timings = [time_image(model, steps, PART, arm.kv_cache) for _ in range(lab.size.repeats)]
    row["seconds"] = statistics.median(timing.seconds for timing in timings)
    row["timed_part"], row["repeats"] = timings[0].timed_part, len(timings)
    row["peak_mib"] = memory_of_image(model, len(model.sides), arm.kv_cache) / 2**20
    return row


def timed_share(model: Any, arm: Arm, steps: Sequence[int]) -> float:
    """About which share of an image's FLOPs is spent while timing it, in :data:`PART`."""
    of_steps = min(1.0, PART.steps / max(steps))
    if not arm.architecture.startswith("mar"):
        return of_steps
    parts = model.flops(list(steps), 1.0, kv_cache=arm.kv_cache)
    events = len(tokens_per_event(model.config))
    transformer = len(spread_over(events, PART.tokens)) / events
    if model.config.order == "masked":
        transformer = len(spread_over(events, PART.steps)) / events
    spent = parts["transformer"][0] * transformer + parts["head"][0] * of_steps
    return spent / (parts["transformer"][0] + parts["head"][0])


def draw(result: dict[str, Any]) -> Figure:
    """FLOPs, seconds and memory over the image's side; growth with n in the legend."""
    figure, axes = figures.new_figure(3, width=4.4, height=5.2)
    panels = (("gflop", "GFLOP"), ("seconds", "seconds"), ("peak_mib", "peak memory, MiB"))
    for axis, (column, label) in zip(axes, panels, strict=True):
        for index, (name, fit) in enumerate(result["fits"].items()):
            points = [
                (row["pixels"], row[column])
                for row in result["rows"]
                if row["name"] == name and row[column]
            ]
            if points:
                pixels, values = zip(*points, strict=True)
                look = figures.style(name, index)
                figures.line(axis, name + power(fit[column]), pixels, values, **look)
        axis.set(xscale="log", yscale="log", xlabel="image side, px")
        axis.set_title(label, fontsize=10, loc="left")
        sizes = sorted({row["pixels"] for row in result["rows"]})
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=7.5, frameon=False)
    return figure


def power(fit: dict[str, Any]) -> str:
    """E.g. ``, n^1.87``, for a legend: the growth over the largest three sizes."""
    exponent = fit["largest_three"]
    return "" if exponent is None else f", $n^{{{exponent:.2f}}}$"


def table(result: dict[str, Any]) -> str:
    """Exponents beside the theory; then every measurement."""
    names, sizes = list(result["fits"]), sorted({row["pixels"] for row in result["rows"]})
    at = {(row["name"], row["pixels"]): row for row in result["rows"]}
    rows = []
    for name in names:
        theory, fit = result["theory"][name], result["fits"][name]
        grown = result["growth"][name] or {}
        rows.append(
            [
                name,
                f"{at[name, sizes[0]]['parameters'] / 1e6:.2f} M",
                f"n^{theory[0]}",
                both(fit["gflop"]),
                f"n^{theory[1]}",
                both(fit["gflop_without_attention"]),
                both(fit["seconds"]),
                both(fit["peak_mib"]),
                number(grown.get("gflop")),
                number(grown.get("seconds")),
            ]
        )
    header = ["", "parameters", "FLOPs, theory", "fitted", "without attention, theory", "fitted"]
    header += ["seconds", "memory", "FLOPs, 256 to 1024 px", "seconds, 256 to 1024 px"]
    measured = [[name, *(cell(at[name, pixels]) for pixels in sizes)] for name in names]
    return "\n".join(
        [
            "Exponents of n over all sizes / the largest three. The last two columns: growth from "
            "256 to 1024 px by the growth in pixels.",
            "",
            figures.markdown_table(header, rows),
            "",
            "GFLOP, seconds and peak MiB of one image (in italics: timed on a part; –: not timed):",
            "",
            figures.markdown_table(["", *(f"{size} px" for size in sizes)], measured),
        ]
    )


def both(fit: dict[str, Any]) -> str:
    """Exponent over all sizes / the largest three."""
    return f"{number(fit['all'])} / {number(fit['largest_three'])}"


def number(value: float | None) -> str:
    """A number as a table shows it."""
    return "–" if value is None else f"{value:.2f}"


def cell(row: dict[str, Any]) -> str:
    """GFLOP, seconds (in italics where a part was timed), MiB."""
    if row["seconds"] is None:
        return f"{row['gflop']:.3g}, –, –"
    seconds = f"{row['seconds']:.3g}"
    seconds = f"*{seconds}*" if row["timed_part"] else seconds
    return f"{row['gflop']:.3g}, {seconds}, {row['peak_mib']:.0f}"
