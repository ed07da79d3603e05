"""Recipes: JSON files that alone bring an image back.

A recipe holds the settings, which checkpoint and which precision, and the SHA-256 of the finished
pixels, so that whoever runs it again can tell whether it is the same image to the last byte.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from apps.shared.settings import Settings
from apps.shared.shelf import label_of
from apps.shared.stream import Progress, StageCost
from apps.shared.studio import Run, Studio
from apps.shared.work import check_work
from ecar_lab.device import DTYPES
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.judge import fingerprint
from ecar_lab.machine import versions
from ecar_lab.model import ECAR

FORMAT = 1
MAX_BYTES = 1_000_000
MAX_SIDE = 2**16  # pixels of an image
HEX = {"checkpoint_hash": 16, "sha256": 64}


@dataclass(frozen=True)
class Origin:
    """What makes the images here: checkpoint with its fingerprint, precision, device, versions."""

    checkpoint: str
    checkpoint_hash: str
    dtype: str
    device: str
    versions: dict[str, str]

    @classmethod
    def of(cls, studio: Studio) -> Origin:
        return cls(
            checkpoint=label_of(studio.checkpoint),
            checkpoint_hash=fingerprint(studio.checkpoint),
            dtype=str(studio.dtype).removeprefix("torch."),
            device=studio.device.type,
            versions=versions(),
        )


@dataclass(frozen=True)
class Recipe:
    """An image in words. ``width``, ``height`` and ``sha256`` are those of its RGB pixels."""

    settings: Settings
    origin: Origin
    width: int
    height: int
    sha256: str

    @classmethod
    def of(cls, run: Run | Progress, origin: Origin) -> Recipe:
        """The recipe of a finished run, made where ``origin`` says."""
        progress = run.progress if isinstance(run, Run) else run
        assert progress.image is not None
        width, height, sha256 = pixels_of(progress.image)
        dtype = progress.view.get("dtype", origin.dtype)  # see replay()
        return cls(
            progress.settings, dataclasses.replace(origin, dtype=dtype), width, height, sha256
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; the inverse of :meth:`from_json`."""
        return {
            "format": FORMAT,
            **dataclasses.asdict(self.origin),
            "settings": json.loads(json.dumps(self.settings.to_json())),
            "image": {"width": self.width, "height": self.height, "sha256": self.sha256},
        }

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """The recipe in a file.

        Raises:
            EcarError: a file that is no recipe, or larger than one can be.
        """
        path = Path(path)
        name = path.name[-80:]
        try:
            if (size := path.stat().st_size) > MAX_BYTES:
                raise EcarError(
                    f"{name!r} has {size / 1e6:.1f} MB: a recipe has at most {MAX_BYTES / 1e6:g} MB"
                )
            values = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_number)
        except OSError as error:
            raise EcarError(f"{name!r} cannot be read: choose the file again") from error
        except EcarError:
            raise
        except (ValueError, RecursionError) as error:
            raise EcarError(
                f"{name!r} is not JSON: choose a recipe that this app has saved"
            ) from error
        return cls.from_json(values)

    @classmethod
    def from_json(cls, values: Any) -> Recipe:
        """The recipe in plain values; each is checked. Timings, if there are any, are left aside.

        Raises:
            EcarError: a field that is missing, unknown, or not what it should be.
        """
        if not isinstance(values, Mapping) or "format" not in values:
            raise EcarError("this is no recipe, it names no format: choose one saved by this app")
        if values["format"] != FORMAT or isinstance(values["format"], bool):
            raise EcarError(
                f"this recipe has format {str(values['format'])[:20]}, this version reads "
                f"{FORMAT}: use the version of ecar_lab that saved it"
            )
        texts = dict.fromkeys(("checkpoint", "checkpoint_hash", "dtype", "device"), str)
        objects = dict.fromkeys(("versions", "settings", "image"), Mapping)
        _check_fields("recipe", values, {**texts, **objects}, optional={"format", "timings"})
        image, named = values["image"], values["versions"]
        _check_fields("image", image, {"width": int, "height": int, "sha256": str})
        _check_fields("versions", named, dict.fromkeys(named, str))
        for name in ("width", "height"):
            if not 1 <= image[name] <= MAX_SIDE:
                raise EcarError(f"{name} of the image is {image[name]}: use 1 to {MAX_SIDE}")
        for where, name in ((values, "checkpoint_hash"), (image, "sha256")):
            if not re.fullmatch(f"[0-9a-f]{{{HEX[name]}}}", where[name]):
                raise EcarError(f"{name} of the recipe is not {HEX[name]} hexadecimal digits")
        if values["dtype"] not in DTYPES:
            raise EcarError(
                f"the dtype {values['dtype'][:20]!r} of the recipe is unknown: use "
                f"{' or '.join(DTYPES)}"
            )
        settings = Settings.from_json(values["settings"])
        origin = Origin(**{field.name: values[field.name] for field in dataclasses.fields(Origin)})
        return cls(settings, origin, image["width"], image["height"], image["sha256"])

    def check(self, studio: Studio, origin: Origin) -> list[str]:
        """What could make the image another one here, a few words each.

        Raises:
            EcarError: it belongs to another checkpoint, or does not fit the model.
        """
        here, there = origin, self.origin
        if here.checkpoint_hash != there.checkpoint_hash and here.checkpoint != there.checkpoint:
            raise EcarError(
                f"this recipe is for the checkpoint {there.checkpoint[:60]!r}, here runs "
                f"{here.checkpoint!r}: choose it at the top of the page, or start the app with "
                f"--checkpoint {there.checkpoint[:60]}"
            )
        check_settings(studio.pipeline.model, self.settings)
        doubts = []
        if here.checkpoint_hash != there.checkpoint_hash:
            doubts.append(
                f"the weights of {here.checkpoint!r} have changed since "
                f"({there.checkpoint_hash} then, {here.checkpoint_hash} now)"
            )
        if here.device != there.device:
            doubts.append(f"it was made on {there.device[:20]}, this is {here.device}")
        doubts += [
            f"{name} was {there.versions[name][:40]}, here it is {here.versions[name]}"
            for name in ("torch", "ecar-lab")
            if name in there.versions and there.versions[name] != here.versions[name]
        ]
        return doubts

    def verdict(self, image: Path, doubts: list[str]) -> tuple[bool, str]:
        """Whether the image in a file is the recipe's byte for byte, and that in a sentence."""
        if pixels_of(image) == (self.width, self.height, self.sha256):
            return True, (
                f"Identical: all {self.width}×{self.height} pixels are, byte for byte, "
                "those of the recipe."
            )
        reasons = "; ".join(doubts) or (
            "checkpoint, device and versions are the same, so either the settings in the file were "
            "changed, or another processor or number of threads rounds differently"
        )
        return False, f"Not identical: the pixels differ from the recipe's. Why: {reasons}."


def replay(studio: Studio, recipe: Recipe, visitor: str | None) -> Iterator[Progress]:
    """Runs a recipe with its own precision, as ``studio.run`` runs settings.

    Raises:
        EcarError: see ``studio.run``.
    """
    for progress in with_dtype(studio, recipe.origin.dtype).run(recipe.settings, visitor):
        progress.view["dtype"] = recipe.origin.dtype
        yield progress


def finished(run: Iterator[Progress]) -> Progress | None:
    """The state at the end of a run; None if its visitor left before."""
    last = None
    for progress in run:
        last = progress
    return last if last is not None and last.image is not None else None


def with_dtype(studio: Studio, dtype: str) -> Studio:
    """The same studio, computing in another precision."""
    twin = copy.copy(studio)
    twin.dtype = DTYPES[dtype]
    return twin


def pixels_of(image: Path) -> tuple[int, int, str]:
    """Width, height and SHA-256 of the RGB bytes of an image file, row by row."""
    with Image.open(image) as opened:
        rgb = opened.convert("RGB")
    return rgb.width, rgb.height, hashlib.sha256(rgb.tobytes()).hexdigest()


def timings(costs: list[StageCost]) -> list[dict[str, Any]]:
    """What each stage of a run took, for JSON: milliseconds, operations, bytes."""
    return [
        {
            "latent_size": cost.side,
            "tokens": cost.tokens,
            "steps": cost.steps,
            "transformer_ms": round(1000 * cost.transformer, 2),
            "flow_head_ms": round(1000 * cost.head, 2),
            "decode_ms": round(1000 * cost.decode, 2),
            "transformer_flops": cost.transformer_flops,
            "flow_head_flops": cost.head_flops,
            "cache_bytes": cost.cache_bytes,
        }
        for cost in costs
    ]


def check_settings(model: ECAR, settings: Settings) -> None:
    """Refuses what did not come from this app's own controls and cannot be run.

    Raises:
        EcarError: naming the value and what would fit.
    """
    stages = model.schedule.num_stages
    if len(settings.steps) != stages:
        raise EcarError(f"steps for {len(settings.steps)} stages: this model has {stages}")
    model.inference_steps(settings.steps)
    model.guidance(settings.guidance)
    model.intervals(settings.all_intervals)
    model.powers(settings.all_powers)
    mixed = () if settings.mix_class is None else (settings.mix_class,)
    for name in (settings.class_name, *settings.classes, *mixed):
        model.class_ids(name)
    if settings.painted and not settings.painted.stage < stages - 1:
        raise EcarError(
            f"a painting at stage {settings.painted.stage}: use 0 to {stages - 2}, so that a later "
            "one completes it"
            if stages > 1
            else "a painting, and this model has one stage: none is left to complete it"
        )
    for edit in settings.edits:
        if not _whole(edit.stage, stages - 1):
            raise EcarError(f"an edit at stage {edit.stage!r}: use 0 to {stages - 1}")
        last, side = settings.steps[edit.stage], model.schedule.resolutions[edit.stage]
        if edit.step is not None and not _whole(edit.step, last):
            raise EcarError(f"an edit after step {edit.step!r}: use 0 to {last}")
        if len(edit.mask) != side:
            raise EcarError(f"the mask of an edit has {len(edit.mask)} rows: use {side}")
        if edit.action == "copy":
            if not isinstance(edit.class_name, str):
                raise EcarError(f"an edit copies from class {edit.class_name!r}: give its name")
            model.class_ids(edit.class_name)
    check_work(model, settings)


def _whole(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def _check_fields(
    what: str, values: Mapping, kinds: Mapping[str, type], optional: set[str] | None = None
) -> None:
    """Refuses missing and unknown fields, and values of another kind."""
    if missing := [name for name in kinds if name not in values]:
        raise EcarError(f"the {what} lacks {missing[0]!r}: choose a file saved by this app")
    if unknown := [name for name in values if name not in kinds and name not in (optional or ())]:
        raise EcarError(f"the {what} has an unknown field {str(unknown[0])[:40]!r}: remove it")
    for name, kind in kinds.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            words = "text" if kind is str else "a whole number" if kind is int else "an object"
            raise EcarError(f"{str(name)[:40]!r} of the {what} is not {words}")


def _no_number(text: str) -> None:
    raise EcarError(f"the recipe holds {text}, which is no number: use finite ones")
