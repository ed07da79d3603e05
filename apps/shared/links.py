"""A run as a link: its settings in the page's address, to be read, changed, sent and opened again.

``?run=1&checkpoint=cifar10&weights=0a1b2c3d&class_name=cat&seed=7&steps=8,6,6&...``: the format's
number, what makes the images, then the fields of ``Settings`` that are not empty. A value is JSON,
or text, or numbers with commas between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from apps.shared.recipes import Origin, check_settings
from apps.shared.settings import Settings
from ecar_lab.errors import EcarError
from ecar_lab.model import ECAR
from ecar_lab.schema import short

FORMAT = "1"
LONGEST = 6000  # characters; servers and mail programs cut addresses that are much longer
WEIGHTS = 8  # digits of the checkpoint's fingerprint
OWN = ("run", "checkpoint", "weights")
# What the page itself, or Gradio, may have in its address.
OTHERS = ("view", "deep_link", "present")


def query_of(settings: Settings, origin: Origin) -> str:
    """The part of the address after the "?"; empty where it would be too long to be a link."""
    values = {
        "run": FORMAT,
        "checkpoint": origin.checkpoint,
        "weights": origin.checkpoint_hash[:WEIGHTS],
    }
    plain = json.loads(json.dumps(settings.to_json()))
    values |= {name: _text(value) for name, value in plain.items() if value not in (None, [], "")}
    query = urlencode(values, safe=",")
    return query if len(query) <= LONGEST else ""


def checkpoint_of(query: str) -> str:
    """The checkpoint that the run in an address was made with; empty where none is named."""
    values = dict(parse_qsl(query.removeprefix("?")[:LONGEST]))
    return values.get("checkpoint", "") if "run" in values else ""


def settings_of(query: str, model: ECAR, origin: Origin) -> tuple[Settings, str] | None:
    """The settings in an address, and a doubt whether the image is still the same (or ""); None
    where the address names no run.

    Raises:
        EcarError: a link that is damaged, of another format or for another checkpoint.
    """
    query = query.removeprefix("?")
    if "run=" not in query:
        return None
    if len(query) > LONGEST:
        raise EcarError(
            f"this link has {len(query):,} characters: a link of this app has at most {LONGEST:,}, "
            "so copy it once more"
        )
    pairs = [
        (name, value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if not name.startswith("__") and name not in OTHERS
    ]
    values = dict(pairs)
    if "run" not in values:
        return None
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise EcarError(f"this link names {twice[:40]!r} twice: leave one of them out")
    _check_origin(values, origin)
    try:
        fields = {name: read_back(text) for name, text in values.items() if name not in OWN}
        settings = Settings.from_json(fields)
        check_settings(model, settings)
    except EcarError as error:
        raise EcarError(f"this link cannot be opened: {error}") from error
    if values.get("weights", origin.checkpoint_hash)[:WEIGHTS] != origin.checkpoint_hash[:WEIGHTS]:
        return settings, (
            f"The weights of {origin.checkpoint} have changed since this link was made, so the "
            "image is another one."
        )
    return settings, ""


def _check_origin(values: Mapping[str, str], origin: Origin) -> None:
    if values["run"] != FORMAT:
        raise EcarError(
            f"this link has format {short(values['run'])}, this version reads {FORMAT}: use the "
            "version of ecar_lab that made it, or copy the link once more"
        )
    if not (name := values.get("checkpoint")):
        raise EcarError("this link names no checkpoint: copy it once more, to its end")
    if name != origin.checkpoint:
        raise EcarError(
            f"this link is for the checkpoint {short(name)}, here runs {origin.checkpoint!r}: "
            f"start the app with --checkpoint {name[:60]}"
        )


def _text(value: Any) -> str:
    """A value in an address: as it is, or with commas, if that is read back as the same."""
    whole = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    bare = value if isinstance(value, str) else whole[1:-1] if isinstance(value, list) else whole
    return bare if read_back(bare) == value else whole


def read_back(text: str) -> Any:
    """The value that a part of an address stands for."""
    for attempt in (text, f"[{text}]"):
        try:
            return json.loads(attempt, parse_constant=_no_number)
        except (ValueError, RecursionError):
            if "," not in text:
                break
    return text


def _no_number(name: str) -> None:
    raise ValueError(name)
