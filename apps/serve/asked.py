"""What a request asks for: read strictly, filled up with the model's own defaults, so that it can
be asked again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ecar_lab.documents import loads
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.schema import Count, Seed, check_values, hints_of, short

MAX_STEPS = 256  # in a stage
FORMATS = ("png", "json")
FIELDS = ("class", "seed", "steps", "guidance", "interval", "power", "solver", "format")


@dataclass(frozen=True)
class Way:
    """How images are made; those that agree in all of this are made in one batch."""

    steps: tuple[int, ...]
    guidance: tuple[float, ...]
    interval: tuple[tuple[float, float], ...]
    power: tuple[float, ...]
    solver: str

    def arguments(self) -> dict[str, Any]:
        """For the ``trace`` of a pipeline."""
        return {
            "num_inference_steps": list(self.steps),
            "guidance_scale": list(self.guidance),
            "guidance_interval": self.interval,
            "time_power": list(self.power),
            "solver": self.solver,
        }


@dataclass(frozen=True)
class Asked:
    """One image."""

    class_id: int
    class_name: str
    seed: int
    way: Way
    format: str = field(default="png", compare=False)

    def recipe(self) -> dict[str, Any]:
        """A request's body that makes this image again."""
        return {"class": self.class_name, "seed": self.seed, **asdict(self.way)}


def read(body: bytes, pipeline: ECARPipeline, form: str) -> Asked:
    """What a body asks of a model.

    Args:
        form: of the answer, unless the body says which.

    Raises:
        EcarError: it is no JSON object, has an unknown field, or a value that the model does not
            take.
    """
    asked = _object(body)
    if unknown := sorted(set(asked) - set(FIELDS)):
        raise EcarError(f"the field {short(unknown[0])} is unknown: use {', '.join(FIELDS)}")
    if "class" not in asked:
        raise EcarError('there is no class: give one by name or number, e.g. {"class": 3}')
    label, model = asked["class"], pipeline.model
    if type(label) not in (int, str):
        raise EcarError(f"class is {short(label)}: give one name or number")
    (class_id,) = model.class_numbers([label])
    seed = asked.get("seed", 0)
    check_values({"seed": Seed}, {"seed": seed})
    way = Way(
        steps=tuple(model.inference_steps(asked.get("steps"))),
        guidance=tuple(model.guidance(asked.get("guidance"))),
        interval=tuple(model.intervals(_pairs(asked.get("interval")))),
        power=tuple(model.powers(asked.get("power"))),
        solver=model.solver(asked.get("solver")),
    )
    if max(way.steps) > MAX_STEPS:
        raise EcarError(f"{max(way.steps)} flow steps in a stage: use at most {MAX_STEPS}")
    form = asked.get("format", form)
    if form not in FORMATS:
        raise EcarError(f"format is {short(form)}: use {' or '.join(FORMATS)}")
    found = Asked(class_id, model.class_names[class_id], int(seed), way, form)
    # The rest is for the sampler to say, before it computes anything.
    pipeline.trace([class_id], generator=torch.Generator(), **way.arguments()).close()
    return found


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise EcarError('the body is not UTF-8: send JSON, e.g. {"class": 3}') from error
    except ValueError as error:
        raise EcarError(f'the body is no JSON ({error}): send e.g. {{"class": 3}}') from error
    if not isinstance(asked, dict):
        raise EcarError(f'the body is {short(asked)}: send an object, e.g. {{"class": 3}}')
    return asked


def _pairs(value: Any) -> Any:
    """JSON has lists where the sampler has pairs; one pair is for all stages."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(one) if isinstance(one, list) else one for one in value)


@dataclass
class Limits:
    """How much is taken on.

    Raises:
        EcarError: a number out of range.
    """

    batch: Count = 32
    wait: float = 0.02
    queue: Count = 256

    def __post_init__(self) -> None:
        check_values(hints_of(Limits), vars(self))
        if not 0 <= self.wait <= 10:
            raise EcarError(f"wait is {short(self.wait)}: use 0 to 10 seconds")
