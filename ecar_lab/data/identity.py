"""What a piece of stored work was made from, so that it is not trusted by its name alone.

Latents and checkpoints carry the identity of their data. Where it differs from what is there now,
the difference is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecar_lab.data.datasets import ImageDataset

Identity = dict[str, Any]


def identity_of(data: ImageDataset, **made_with: str) -> Identity:
    """Pictures, their number and classes, and the hashes of what works on them.

    Take it before the images are read: unreadable ones count no more afterwards.

    Args:
        made_with: what -> hash, e.g. ``tokenizer="3f..."``.
    """
    return {
        "classes": list(data.info.class_names),
        "images": data.info.num_images,
        "pictures": data.fingerprint,
        **made_with,
    }


def difference(then: Mapping[str, Any], now: Identity) -> str | None:
    """What has changed from one identity to another, in words; None if nothing has.

    Something that either of them does not know is not compared.
    """
    known = [name for name in now if now[name] != "" and then.get(name, "") != ""]
    changed = [name for name in known if then[name] != now[name]]
    if "classes" in changed:
        return _class_difference(then["classes"], now["classes"])
    if "images" in changed:
        return f"the data set has {now['images']} images now, and had {then['images']}"
    if "pictures" in changed:
        return f"the {now['images'] or 'streamed'} pictures or their classes are no longer the same"
    if changed:
        return f"the {changed[0]} is another one now"
    return None


def _class_difference(then: Any, now: list[str]) -> str:
    if not isinstance(then, list):
        return "the classes are not those that were noted"
    if len(then) != len(now):
        return f"the data set has {len(now)} classes now, and had {len(then)}"
    if sorted(then) == sorted(now):
        return "the classes come in another order now"
    number = next(i for i, names in enumerate(zip(then, now, strict=True)) if len(set(names)) == 2)
    return f"class {number} is {now[number]!r} now, and was {then[number]!r}"
