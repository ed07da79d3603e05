"""How large a model may be said to be: its own configuration is bounded before it is built.

A ``config.json`` is somebody's file. A thousand million layers would be made one by one until the
memory is full, so the numbers are checked first, then the least memory that they ask for.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import psutil
from diffusers.configuration_utils import ConfigMixin

from ecar_lab.errors import EcarError
from ecar_lab.schema import check_values, hints_of, short

# The most that a name may stand for; what is not listed ends at LARGEST.
LARGEST = 2**20
LIMITS = {
    **dict.fromkeys(("transformer_layers", "head_layers", "num_layers", "depth"), 512),
    **dict.fromkeys(("layers_per_block", "num_encoder_blocks", "num_decoder_blocks"), 512),
    **dict.fromkeys(("width", "head_width", "head_dim", "block_out_channels"), 2**16),
    **dict.fromkeys(("num_heads", "latent_size", "latent_channels", "scale_terms"), 4096),
    **dict.fromkeys(("num_stages", "stage_ratio"), 16),
}
MAY_BE_ZERO = ("transformer_layers", "head_layers", "num_layers")
FLOAT_BYTES = 4
ROOM = 0.9  # of the free memory that a model may ask for


class BoundedConfig(ConfigMixin):
    """A diffusers configuration whose values are checked before anything is built of them.

    Raises:
        EcarError: (from the constructor) a value of another kind, a number that is not finite or
            out of all bounds, a model that the free memory does not hold.
    """

    def register_to_config(self, **values: Any) -> None:
        own = {name: value for name, value in values.items() if not name.startswith("_")}
        check_arguments(type(self), own)
        check_size(type(self).__name__, own)
        super().register_to_config(**values)


def check_arguments(kind: type, values: Mapping[str, Any]) -> None:
    """Refuses arguments that the constructor of ``kind`` does not take.

    Raises:
        EcarError: an unknown name, a value of another kind or out of all bounds.
    """
    known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    if unknown := [name for name in values if name not in known]:
        raise EcarError(
            f"{kind.__name__} has no argument {short(unknown[0])}: use one of {', '.join(known)}"
        )
    hints = hints_of(kind.__init__)
    check_values(hints, values)
    for name, value in values.items():
        is_size = hints.get(name) is int and name not in MAY_BE_ZERO
        check_value(name, value, least=1 if is_size else 0)


def check_size(name: str, values: Mapping[str, Any]) -> None:
    """Refuses a model that cannot be built, from its configuration alone.

    Raises:
        EcarError: a number in it is out of all bounds, or its weights exceed the free memory.
    """
    check_value("config", values)
    needed = FLOAT_BYTES * least_parameters(values)
    require_memory(f"the {name} of this size", needed, "use a smaller width or fewer layers")


def check_value(name: str, value: Any, least: int = -LARGEST) -> None:
    """One argument of a model: numbers are finite and bounded, however deep they lie.

    Raises:
        EcarError: one that is not.
    """
    if isinstance(value, Mapping):
        for key, one in value.items():
            check_value(str(key), one)
    elif isinstance(value, list | tuple):
        for one in value:
            check_value(name, one, least)
    elif isinstance(value, float) and not least <= value <= LARGEST:
        raise EcarError(f"{name} is {value}: use a finite number from {least} to {LARGEST}")
    elif isinstance(value, int) and not least <= value <= LIMITS.get(name, LARGEST):
        most = LIMITS.get(name, LARGEST)
        raise EcarError(f"{name} is {short(value)}: use {least} to {most}")


def least_parameters(values: Mapping[str, Any]) -> int:
    """Fewer than what a model of this configuration has: its largest matrices alone."""

    def count(name: str) -> int:
        return _count(values, name)

    width, layers = _width_and_layers(values)
    blocks = layers * 12 * width**2  # attention 4, MLP 8
    classes = count("num_classes") * width
    top = width * max(1, count("downsample_factor") // 2)
    convolutions = count("depth") * 2 * 9 * top**2
    channels = values.get("block_out_channels")  # of a diffusers autoencoder, in a list
    if isinstance(channels, list | tuple):
        widest = max((one for one in channels if isinstance(one, int)), default=0)
        convolutions += max(1, count("layers_per_block")) * 2 * 9 * widest**2
    inner = values.get("autoencoder_config")
    within = least_parameters(inner) if isinstance(inner, Mapping) else 0
    return blocks + classes + convolutions + within


def _width_and_layers(values: Mapping[str, Any]) -> tuple[int, int]:
    width = _count(values, "width") or _count(values, "num_heads") * _count(values, "head_dim")
    kinds = ("transformer_layers", "head_layers", "num_layers")
    return width, sum(_count(values, kind) for kind in kinds)


def _count(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0


def check_batch(batch_size: int, numbers: int, device: str) -> None:
    """Refuses a training on the CPU whose batch cannot be held, judged by sizes alone.

    Args:
        numbers: what is kept of one image at least, see :func:`least_activations`; 2 bytes each.

    Raises:
        EcarError: that is more than the free memory.
    """
    if device == "cpu":
        remedy = "use a smaller batch_size, and grad_accum for the rest"
        require_memory(f"batch_size {batch_size:,}", 2 * batch_size * numbers, remedy)


def check_images(values: Mapping[str, Any], count: int, device: str) -> None:
    """Refuses to make more images at once on the CPU than its memory holds, judged by sizes alone.

    What one block alone makes of an image: queries, keys, values, and an MLP of four times the
    width.

    Raises:
        EcarError: that is more than the free memory.
    """
    if device == "cpu":
        width, _ = _width_and_layers(values)
        needed = FLOAT_BYTES * count * _tokens(values) * 8 * width
        require_memory(f"{count:,} images at once", needed, "make them in several calls")


def least_activations(values: Mapping[str, Any]) -> int:
    """Numbers that a generator keeps of an image while it is trained: what each block has read."""
    width, layers = _width_and_layers(values)
    return _tokens(values) * width * layers


def _tokens(values: Mapping[str, Any]) -> int:
    return (_count(values, "latent_size") // max(1, _count(values, "patch_size"))) ** 2


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has free, less under ``ulimit``."""
    free = psutil.virtual_memory().available
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            with contextlib.suppress(psutil.Error):
                free = min(free, max(0, limit - psutil.Process().memory_info().vms))
    return free


def require_memory(what: str, needed: int, remedy: str, share: float = ROOM) -> None:
    """Refuses what would leave little of the free memory.

    Raises:
        EcarError: ``needed`` bytes are more than ``share`` of it.
    """
    if needed < 4096:
        return
    free = free_memory()
    if needed > share * free:
        raise EcarError(
            f"{what} needs {needed / 2**30:,.1f} GiB of memory and {free / 2**30:.1f} GiB are "
            f"free: {remedy}"
        )
