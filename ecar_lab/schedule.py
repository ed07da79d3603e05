"""The stages of E-CAR: which part of the way from noise to data each one goes, and how one hands
over to the next.

Time runs from noise to data: ``x_t = (1 - t) * noise + t * data``, so t = 0 is noise and t = 1 is
data. Stage s works at its own resolution and covers only the window [a_s, b_s] of that way. Nothing
here holds a tensor or knows a model: a schedule is numbers, and every room of the kit asks it.

All code, its errors and the formulas count stages from 0, the coarsest, to S - 1. Pictures, tables
and the app count from 1: what they call stage 1 is index 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ecar_lab.arguments import plain, real_number
from ecar_lab.errors import EcarError
from ecar_lab.schema import short

Coupling = Literal["independent", "correlated", "restart"]
# Intervals of local time: one (low, high) for all stages, or one per stage; None is all of a stage.
Intervals = Sequence[float] | Sequence[Sequence[float] | None] | None

MAX_STAGES, MIN_POWER, MAX_POWER = 5, 0.01, 8
# Each stage's slice of conditioning time ends a little before the next begins, so that the end of
# one stage and the start of the next, which are different states, never share a number.
TIME_GAP = 0.05


@dataclass(frozen=True)
class Transition:
    """From the end state y of stage s-1 to the start of stage s.

    ``x_start = scale * Up(y) + sigma * eps``, with Up = nearest-neighbour upsampling, by two unless
    the schedule says otherwise.

    Attributes:
        scale: a / b, where b = end of the previous window, a = start of this one.
        sigma: standard deviation of the noise added again.
        coupling: ``independent``: eps is white. ``correlated``: eps sums to zero in every 2x2
            block, with covariance 4/3 (I - 11ᵀ/4), 11ᵀ being the matrix of ones, and turns the
            block-constant noise of Up(y) white. ``restart``: nothing is handed over, scale = 0 and
            sigma = 1.
    """

    scale: float
    sigma: float
    coupling: Coupling


@dataclass(frozen=True)
class StageSchedule:
    """S stages of growing resolution, each with its window of flow time.

    Args:
        latent_size: side of the full-size latent, in latent pixels; a multiple of ratio**(S-1).
        num_stages: S, from 1 to 5. One stage is plain flow matching.
        window_ends: b_0 < b_1 < ... < b_{S-1} = 1, where each stage stops. By default they lie
            evenly between ``FIRST_WINDOW_END`` and 1. (Our reading: the paper's are not public.)
        coupling: how noise is added at a transition, see :class:`Transition`. ``restart`` is not
            E-CAR but what it is measured against: every stage goes all the way from noise to data
            (windows [0, 1], as in FlowAR), and knows of the earlier ones by its token map alone.
        ratio: of the resolutions of neighbouring stages.

    Raises:
        EcarError: sizes that do not divide, windows that do not increase to 1, unknown coupling.

    Example:
        >>> schedule = StageSchedule(latent_size=16, num_stages=3, window_ends=(0.5, 0.75, 1.0))
        >>> schedule.resolutions
        (4, 8, 16)
        >>> schedule.window(0)
        (0.0, 0.5)
    """

    latent_size: int = 16
    num_stages: int = 3
    window_ends: tuple[float, ...] | None = None
    coupling: Coupling = "independent"
    ratio: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.num_stages <= MAX_STAGES:
            raise EcarError(f"{self.num_stages} stages: use 1 to {MAX_STAGES}")
        if self.ratio < 2:
            raise EcarError(f"a resolution ratio of {self.ratio}: use 2 or more")
        factor = self.ratio ** (self.num_stages - 1)
        if self.latent_size < factor or self.latent_size % factor:
            nearest = max(1, math.ceil(self.latent_size / factor)) * factor
            raise EcarError(
                f"a latent of {self.latent_size} is not divisible by {factor} "
                f"({self.num_stages} stages): use {nearest}"
            )
        if self.coupling not in get_args(Coupling):
            known = ", ".join(get_args(Coupling))
            raise EcarError(f"coupling {self.coupling!r} is unknown: use {known}")
        restart = self.coupling == "restart"
        ends = [1.0] * self.num_stages if restart else even_window_ends(self.num_stages)
        ends = self.window_ends or ends
        object.__setattr__(self, "window_ends", tuple(float(end) for end in ends))
        self._check_windows()

    def _check_windows(self) -> None:
        ends = self.ends
        if len(ends) != self.num_stages:
            raise EcarError(
                f"{len(ends)} window ends for {self.num_stages} stages: give one end per stage"
            )
        if self.coupling == "restart":
            if set(ends) != {1.0}:
                raise EcarError(f"window ends {list(ends)}: with coupling restart all must be 1")
        elif not all(low < high for low, high in zip((0.0, *ends), ends, strict=False)):
            raise EcarError(
                f"window ends {list(ends)} do not increase from above 0: use e.g. 0.5 1"
            )
        if ends[-1] != 1.0:
            raise EcarError(f"the last window ends at {ends[-1]}: it must end at 1 (data)")

    @property
    def ends(self) -> tuple[float, ...]:
        """b_s, the flow time at which each stage stops."""
        assert self.window_ends is not None  # set by __post_init__
        return self.window_ends

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Side of each stage's latent, coarsest first."""
        last = self.num_stages - 1
        factors = [self.ratio ** (last - stage) for stage in range(self.num_stages)]
        return tuple(self.latent_size // factor for factor in factors)

    def window(self, stage: int) -> tuple[float, float]:
        """[a_s, b_s]: a_0 = 0, and a_s = b / (ratio - (ratio - 1) b) with b = b_{s-1} afterwards,
        which at a ratio of two is b / (2 - b).

        That start is the one at which the added noise is just enough: under ``correlated`` it makes
        the total noise white with standard deviation 1 - a, the least re-noising that can.
        """
        if stage == 0 or self.coupling == "restart":
            return 0.0, self.ends[stage]
        previous_end = self.ends[stage - 1]
        return previous_end / (self.ratio - (self.ratio - 1) * previous_end), self.ends[stage]

    def transition(self, stage: int) -> Transition:
        """The hand-over from stage - 1 to ``stage`` (1 <= stage < S).

        ``correlated``: sigma = (1 - a) sqrt(ratio² - 1) / ratio. ``independent``: sigma² =
        (1 - a)² - (a / b)² (1 - b)². Both leave every latent pixel with noise of standard deviation
        1 - a.
        """
        if not 1 <= stage < self.num_stages:
            raise EcarError(f"no transition into stage {stage}: use 1 to {self.num_stages - 1}")
        start = self.window(stage)[0]
        if self.coupling == "restart":
            return Transition(0.0, 1.0, self.coupling)
        previous_end = self.ends[stage - 1]
        scale = start / previous_end
        if self.coupling == "correlated":
            sigma = (1 - start) * math.sqrt(self.ratio**2 - 1) / self.ratio
        else:
            sigma = math.sqrt((1 - start) ** 2 - (scale * (1 - previous_end)) ** 2)
        return Transition(scale, sigma, self.coupling)

    def time_slice(self, stage: int) -> tuple[float, float]:
        """The stage's own slice of conditioning time in [0, 1]; slices are disjoint.

        Windows overlap on purpose (a_s < b_{s-1}: a stage starts noisier than the last one ended),
        so t alone does not tell which stage a state belongs to. Slices do: their lengths are in
        proportion to the windows', with a gap between neighbours.
        """
        lengths = [end - start for start, end in map(self.window, range(self.num_stages))]
        low = sum(lengths[:stage]) / sum(lengths)
        return low, low + lengths[stage] / sum(lengths) * (1 - TIME_GAP)

    def conditioning_time(self, stage: int, local_time):
        """What the flow head is told: local time 0..1 (number or tensor) placed in the slice."""
        low, high = self.time_slice(stage)
        return low + local_time * (high - low)

    def flow_time(self, stage: int, local_time):
        """t in [a_s, b_s] at local time 0..1 (number or tensor): the share of data."""
        start, end = self.window(stage)
        return start + local_time * (end - start)


FIRST_WINDOW_END = 0.5


def even_window_ends(num_stages: int) -> tuple[float, ...]:
    """Ends spread evenly from ``FIRST_WINDOW_END`` to 1: S = 3 gives 0.5, 0.75, 1."""
    if num_stages == 1:
        return (1.0,)
    step = (1 - FIRST_WINDOW_END) / (num_stages - 1)
    return (*(FIRST_WINDOW_END + step * stage for stage in range(num_stages - 1)), 1.0)


def per_stage(value, num_stages: int, name: str) -> list:
    """One value for all stages, or a sequence, array or tensor with one per stage: S values.

    Raises:
        EcarError: a sequence of another length.
    """
    value = plain(value)
    if isinstance(value, list):
        if len(value) != num_stages:
            raise EcarError(
                f"{name} has {len(value)} values for {num_stages} stages: "
                "give one, or one per stage"
            )
        return value
    return [value] * num_stages


def plan_text(steps: int | Sequence[int]) -> str:
    """The steps of each stage in words: ``8 + 6 + 6``, or ``50`` for one number."""
    return " + ".join(map(str, [steps] if isinstance(steps, int) else steps))


def time_grid(steps: int, power: float = 1.0) -> list[float]:
    """Local times of a stage's steps, from 0 to 1: ``tau_i = (i / K) ** power``.

    A power of 1 is the even grid; above it the first steps are the shorter ones.
    """
    return [(step / steps) ** power for step in range(steps + 1)]


def check_interval(interval: Any) -> tuple[float, float]:
    """An interval of local time as (low, high); None is all of it, (0, 1).

    Raises:
        EcarError: it ends before it begins, leaves 0 ... 1, or is no pair of numbers.
    """
    if interval is None:
        return 0.0, 1.0
    ends = plain(interval)
    found = [real_number(end) for end in (ends if isinstance(ends, list) else [ends])]
    numbers = [number for number in found if number is not None]
    if len(found) != 2 or len(numbers) != 2:
        raise EcarError(
            f"guidance_interval {short(interval)} is no pair: give low and high, e.g. 0 0.5"
        )
    low, high = numbers
    if not low < high:
        raise EcarError(
            f"guidance_interval {low:g} to {high:g} ends before it begins: give the lower number "
            "first, and use guidance 1 where there shall be none"
        )
    if not 0 <= low < high <= 1:
        raise EcarError(
            f"guidance_interval {low:g} to {high:g} leaves the stage: local time is 0 to 1"
        )
    return low, high


def check_power(power: float) -> float:
    """The power of a :func:`time_grid`.

    Raises:
        EcarError: it is so small or so large that steps have no length.
    """
    number = real_number(plain(power))
    if number is None or not MIN_POWER <= number <= MAX_POWER:
        raise EcarError(
            f"time_power {short(power) if number is None else f'{number:g}'}: use 1 for even "
            f"steps, more (up to {MAX_POWER}) for shorter first steps, less (from {MIN_POWER}) for "
            "longer ones"
        )
    return number
