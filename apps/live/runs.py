"""From sliders to an image: what the page wishes, as settings; every stage's end as one sprite.

Only the newest wish of a page counts. A run whose page wishes something else meanwhile ends at its
next step.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from apps.shared.inline import data_url, side_by_side
from apps.shared.parts import preset_steps
from apps.shared.recipes import check_settings
from apps.shared.settings import MAX_SEED, Settings, number, whole
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from ecar_lab.flow import FEW_STEPS, GUIDANCE_RANGE
from ecar_lab.model import ECAR
from ecar_lab.schema import short
from ecar_lab.viz.colours import decode

MAX_GUIDANCE = 8.0
REMEMBERED = 1000  # pages whose newest wish is known
FIELDS = ("class_name", "seed", "guidance", "mix_class", "mix", "from_stage", "walk_seed", "walk")


def guidance_range(model: ECAR) -> tuple[float, float]:
    """What the slider offers: a few-step head knows no other guidance than it was trained on."""
    return GUIDANCE_RANGE if model.few_step else (0.0, MAX_GUIDANCE)


def first_wish(settings: Settings, names: list[str]) -> dict[str, Any]:
    """Where the sliders stand for settings, as far as sliders can say them."""
    stages = len(settings.steps)
    others = [name for name in names if name != settings.class_name]
    mixed = [stage for stage, share in enumerate(settings.mix) if share]
    return {
        "class_name": settings.class_name,
        "seed": settings.seed,
        "guidance": max(settings.guidance),
        "mix_class": settings.mix_class or (others or names)[0],
        "mix": max(settings.mix, default=0.0),
        "from_stage": mixed[0] if mixed else min(1, stages - 1),
        "walk_seed": (settings.seed + 1) % (MAX_SEED + 1)
        if settings.walk_seed is None
        else settings.walk_seed,
        "walk": list(settings.walk) or [0.0] * stages,
    }


def draft_steps(model: ECAR, steps: Sequence[int]) -> tuple[int, ...]:
    """Steps of what is seen while a slider moves: half as many, one at least."""
    return tuple(preset_steps(steps, "fast", max(FEW_STEPS) if model.few_step else None))


def settings_of(model: ECAR, wish: Any, draft: bool = False) -> Settings:
    """The settings that a wish of the page stands for; a ``draft`` takes fewer steps.

    Guidance is that of all stages that the model guides by itself (of all, if it guides none); the
    other class is mixed in from ``from_stage`` on; ``walk`` says per stage how far its noise is.

    Raises:
        EcarError: something that is no wish, or that the model does not take.
    """
    if not isinstance(wish, Mapping) or set(wish) != set(FIELDS):
        raise EcarError(f"the wish {short(wish)} cannot be read: load the page again")
    stages, shares = model.schedule.num_stages, wish["walk"]
    if not isinstance(shares, list) or len(shares) != stages:
        raise EcarError(f"walk is {short(shares)}: give a share from 0 to 1 for {stages} stages")
    if not isinstance(wish["class_name"], str) or not isinstance(wish["mix_class"], str):
        raise EcarError("a class of the wish is no name: choose it from the list")
    scale, mix = real(wish["guidance"], "guidance"), real(wish["mix"], "mix")
    first = whole(wish["from_stage"], "from_stage")
    if not 0 <= first < stages:
        raise EcarError(f"from_stage is {first}: use 0 to {stages - 1}")
    plain = Settings.of(model, wish["class_name"], whole(wish["seed"], "seed"))
    usual = plain.guidance
    guided = any(one != 1 for one in usual)
    settings = replace(
        plain,
        guidance=tuple(one if guided and one == 1 else scale for one in usual),
        mix_class=wish["mix_class"],
        mix=tuple(mix if stage >= first else 0.0 for stage in range(stages)),
        walk_seed=whole(wish["walk_seed"], "walk_seed"),
        walk=tuple(real(share, "walk") for share in shares),
    )
    if draft:
        settings = replace(settings, steps=draft_steps(model, settings.steps))
    check_settings(model, settings)
    model.check_few_step(settings.steps, settings.guidance, settings.all_powers, settings.solver)
    return settings


def real(value: Any, name: str) -> float:
    """The value, if it is a number that a slider could stand for.

    Raises:
        EcarError: it is something else.
    """
    if not -1e6 < number(value, name) < 1e6:
        raise EcarError(f"{name} is {short(value)}: give a number")
    return float(value)


@dataclass(frozen=True)
class Drawn:
    """All stages' ends side by side, each as large as the image; the image is the last one."""

    sprite: str
    count: int
    seconds: float


def draw(
    studio: Studio, settings: Settings, wanted: Callable[[], bool] = lambda: True
) -> Drawn | None:
    """Makes the image; None as soon as it is not ``wanted`` any more.

    Raises:
        EcarError: settings that the model does not take.
    """
    begin = time.perf_counter()
    tokenizer, pictures = studio.pipeline.tokenizer, []
    for event in studio.trace(settings):
        if not wanted():
            return None
        if event.is_stage_end:
            shown = event.latent if event.is_final else event.clean_estimate
            pictures.append(decode(tokenizer, shown))
    size = pictures[-1].shape[-2:]
    ends = torch.cat([F.interpolate(picture, size, mode="nearest") for picture in pictures])
    sprite = data_url(side_by_side(ends), 1)
    return Drawn(sprite, len(pictures), time.perf_counter() - begin)


class Newest:
    """The number of the newest wish of every page."""

    def __init__(self) -> None:
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, page: str, number: int) -> None:
        """A page has this wish now."""
        with self._lock:
            self._newest[page] = max(number, self._newest.pop(page, number))
            while len(self._newest) > REMEMBERED:
                self._newest.popitem(last=False)

    def is_newest(self, page: str, number: int) -> bool:
        """Whether the page has no newer wish."""
        with self._lock:
            return self._newest.get(page, number) <= number
