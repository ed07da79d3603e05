"""All processes of a run are at one, before anything is written: where one fails, or sees other
settings or other images than the first, all of them stop with the same sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ecar_lab.data.identity import Identity
from ecar_lab.errors import EcarError
from ecar_lab.schema import short
from ecar_lab.training.config import TrainConfig

Value = TypeVar("Value")
# Where a process finds things: machines may differ in that. What it finds there is compared.
PLACES = {"dataset", "data", "limit", "output", "latents", "tokenizer", "teacher", "init_from"} | {
    *("device", "resume")
}


def everyone(accelerator: Accelerator, said: Value) -> list[Value]:
    """What every process says, in their order."""
    return cast(list[Value], gather_object([said]))


def of_the_first(accelerator: Accelerator, said: Value) -> Value:
    """What the main process says."""
    if accelerator.num_processes == 1:
        return said
    told = [said]
    broadcast_object_list(told)
    return told[0]


def together(accelerator: Accelerator, work: Callable[[], Value]) -> Value:
    """What ``work`` gives in this process, once it has succeeded in all of them.

    Raises:
        EcarError: it failed in one; in all processes the sentence of the first that failed.
    """
    value, failed = None, None
    try:
        value = work()
    except EcarError as error:
        failed = error
    said = everyone(accelerator, str(failed) if failed else "")
    for process, sentence in enumerate(said):
        if sentence and sentence != said[accelerator.process_index]:
            raise EcarError(f"process {process} of {len(said)} stopped: {sentence}")
    if failed:
        raise failed
    return cast(Value, value)


def agree_on_settings(accelerator: Accelerator, cfg: TrainConfig) -> None:
    """Compares the settings of all processes, but for where each finds things.

    Raises:
        EcarError: a process was given other settings than the first.
    """
    mine = {name: value for name, value in cfg.to_dict().items() if name not in PLACES}
    first, process, other = _first_difference(everyone(accelerator, mine))
    for name in sorted(set(first) | set(other)):
        one, two = (short(record.get(name)) for record in (first, other))
        if one != two or first.get(name) != other.get(name):
            raise EcarError(
                f"process {process} was given {two} as {name}, process 0 {one}: start all "
                "processes of a run with the same switches"
            )


def agree_on_data(accelerator: Accelerator, identity: Identity) -> Identity:
    """The identity of the data, where all processes have the same.

    Raises:
        EcarError: a process sees other images, classes or another tokenizer than the first.
    """
    first, process, other = _first_difference(everyone(accelerator, identity))
    if first != other:
        raise EcarError(
            f"process {process} {_what_differs(first, other)}: give all processes of a run the "
            "same data and tokenizer"
        )
    return identity


def _first_difference(
    said: list[dict[str, Any]],
) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """What process 0 says, and the first process that says something else with what it says."""
    for process, record in enumerate(said):
        if record != said[0]:
            return said[0], process, record
    return said[0], 0, said[0]


def _what_differs(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if first["classes"] != other["classes"]:
        here, there = other["classes"], first["classes"]
        if len(here) != len(there):
            return f"sees {len(here)} classes, process 0 {len(there)}"
        number = next(n for n, one in enumerate(here) if one != there[n])
        return f"has {here[number]!r} as class {number}, process 0 {there[number]!r}"
    if first["images"] != other["images"]:
        return f"sees {other['images']} images, process 0 {first['images']}"
    if first["pictures"] != other["pictures"]:
        return "sees other pictures than process 0"
    return f"has another {min(n for n in other if first.get(n) != other[n])} than process 0"
