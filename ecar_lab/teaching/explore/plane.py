"""Data in the plane, and particles on their way from noise to it, for notebooks 3 and 10."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ipywidgets as widgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.experiments.lab.figures import line, logarithmic, new_figure
from ecar_lab.flow import EVALUATIONS, SOLVERS
from ecar_lab.teaching.explore import choice, explorer, whole
from ecar_lab.teaching.explore.flow_matching_figures import FRAME
from ecar_lab.teaching.figures import hue

Field = Callable[[Tensor, float], Tensor]  # the velocity at states (N, 2) and a time
Distance = Callable[[Tensor, Tensor], float]

DATA = ("moons", "rings", "spirals", "blobs")
STEPS = (1, 2, 4, 8, 16, 32)
RANGE = (0.02, 1.5)  # of distances, the same in every picture
SHOWN, TRACED = 700, 30  # particles drawn; those of them whose way is drawn


def points(name: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (count, 2) of a data set and their classes (count,): which moon, ring, arm or blob.

    Raises:
        EcarError: a name that is not in ``DATA``.
    """
    if name not in DATA:
        raise EcarError(f"there are no points called {name!r}: use one of {', '.join(DATA)}")
    u, noise = torch.rand(count, generator=generator), torch.randn(count, 2, generator=generator)
    label = torch.arange(count) % (3 if name == "blobs" else 2)
    side = 2.0 * label - 1
    if name == "blobs":
        return _turn(2 * math.pi * (label / 3 + 0.25)) + 0.5 * noise, label
    if name == "moons":
        angle = math.pi * u
        clean = torch.stack((side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)), dim=1)
    elif name == "rings":
        clean = (0.55 + 0.7 * label)[:, None] * _turn(2 * math.pi * u)
    else:
        radius = 0.15 + 1.35 * u.sqrt()
        clean = (side * radius)[:, None] * _turn(1.5 * math.pi * radius)
    return 1.2 * clean + 0.05 * noise, label


def _turn(angle: Tensor) -> Tensor:
    """Points on the unit circle, (N, 2)."""
    return torch.stack((angle.cos(), angle.sin()), dim=1)


@torch.no_grad()
def trajectory(velocity: Field, noise: Tensor, steps: int, solver: str = "euler") -> Tensor:
    """States of a run in equal steps from t = 0 to t = 1: (K + 1, N, 2)."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
    states, slope = [noise], None
    for step in range(steps):
        state, slope = SOLVERS[solver](
            lambda x, i: velocity(x, times[i]), states[-1], times, step, slope
        )
        states.append(state)
    return torch.stack(states)


def position(states: Tensor, t: float) -> Tensor:
    """Where the particles are at time t, (N, 2): between two states they move straight."""
    steps = len(states) - 1
    step = min(int(t * steps), steps - 1)
    return torch.lerp(states[step], states[step + 1], t * steps - step)


@dataclass
class Sandbox:
    """Trained fields and what they lead to; every trajectory is computed once and kept.

    Attributes:
        fields: data set -> pairing -> velocity. data: data set -> real points, N or
        more. distance: of two sets of N. noise: (N, 2), where all particles start.
    """

    fields: Mapping[str, Mapping[str, Field]]
    data: Mapping[str, Tensor]
    distance: Distance
    noise: Tensor
    runs: dict[tuple[str, str, str, int], Tensor] = field(default_factory=dict)
    distances: dict[tuple[str, str, str, int], float] = field(default_factory=dict)

    def states(self, data: str, pairing: str, solver: str, steps: int) -> Tensor:
        """(K + 1, N, 2), on the CPU."""
        key = (data, pairing, solver, steps)
        if key not in self.runs:
            self.runs[key] = trajectory(self.fields[data][pairing], self.noise, steps, solver).cpu()
        return self.runs[key]

    def score(self, data: str, pairing: str, solver: str, steps: int) -> float:
        """Distance of the end states to the data."""
        key = (data, pairing, solver, steps)
        if key not in self.distances:
            self.distances[key] = self.distance(
                self.states(*key)[-1], self.data[data][: len(self.noise)]
            )
        return self.distances[key]

    def draw(self, data: str, pairing: str, solver: str, steps: int, percent: int) -> Figure:
        """Particles at a time with the way they came, and the distance over network calls."""
        figure, (plane, curve) = new_figure(2, width=3.3, height=3.3)
        self._plane(plane, data, self.states(data, pairing, solver, steps), percent / 100)
        for index, name in enumerate(SOLVERS):
            calls = [EVALUATIONS[name] * count for count in STEPS]
            scores = [self.score(data, pairing, name, count) for count in STEPS]
            line(curve, name, calls, scores, index)
        here = self.score(data, pairing, solver, steps)
        curve.plot(
            EVALUATIONS[solver] * steps, here, "o", markersize=13, markerfacecolor="none",
            markeredgecolor="#1B1F24", markeredgewidth=1.5,
        )  # fmt: skip
        curve.set_title(f"distance at t = 1: {here:.3f}", fontsize=10)
        curve.legend(fontsize=8, frameon=False)
        curve.set_ylim(*RANGE)
        logarithmic(curve, "x", "y", xlabel="network calls", ylabel="distance to the data")
        return figure

    def _plane(self, axis: Axes, data: str, states: Tensor, t: float) -> None:
        real, now = self.data[data][:SHOWN].cpu(), position(states, t)[:SHOWN]
        done = [states[k] for k in range(len(states)) if k / (len(states) - 1) < t]
        way = torch.stack([*(state[:TRACED] for state in done), now[:TRACED]])
        axis.scatter(real[:, 0], real[:, 1], s=2, color="#C3C9D0", linewidths=0)
        axis.plot(way[..., 0], way[..., 1], color=hue(1), linewidth=0.7)
        axis.scatter(now[:, 0], now[:, 1], s=3, color=hue(0), linewidths=0)
        axis.set(xlim=(-FRAME, FRAME), ylim=(-FRAME, FRAME), aspect="equal")
        axis.set_title(f"t = {t:.2f}", fontsize=10)


def sandbox(
    fields: Mapping[str, Mapping[str, Field]],
    data: Mapping[str, Tensor],
    distance: Distance,
    noise: Tensor,
) -> widgets.VBox | None:
    """Controls for data, pairing, solver, steps and time, with a button that lets time run."""
    plane = Sandbox(fields, data, distance, noise)
    names, pairings = list(fields), list(next(iter(fields.values())))
    percent = whole("time t, in percent", 0, 100, 100, step=5)
    box = explorer(
        plane.draw,
        {
            "data": choice("data", names),
            "pairing": choice("pairing", pairings),
            "solver": choice("solver", list(SOLVERS)),
            "steps": choice("steps", STEPS, 8),
            "percent": percent,
        },
        {
            f"{names[-1]}, {pairing} pairs, 2 steps": {
                **{"data": names[-1], "pairing": pairing, "steps": 2}
            }
            for pairing in (pairings[0], pairings[-1])
        },
        "Two runs with two Euler steps. Blue: particles at t = 1; orange: the way some of them "
        "came; grey: the data. The ring marks the run in the curve beside it.",
        f"Two pairs of panels for {names[-1]}: particles over the data, and curves of the distance "
        "over network calls for Euler and Heun. The first pairing with two steps is far from the "
        "data, and its curves fall until about 16 calls; the last pairing is close at once, and "
        "its curves are almost flat.",
        columns=1,
    )
    if box is not None:
        play = widgets.Play(min=0, max=100, step=5, interval=400, description="time runs")
        widgets.jslink((play, "value"), (percent, "value"))
        box.children = (play, *box.children)
    return box
