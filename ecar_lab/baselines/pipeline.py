"""Images from a baseline, in the same words as from E-CAR; and from either, whichever a folder
holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ecar_lab.baselines.base import Baseline
from ecar_lab.files import resolve_checkpoint
from ecar_lab.generator import LatentGenerator
from ecar_lab.model import ECAR
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.base import Tokenizer
from ecar_lab.trace import Stream


class BaselinePipeline(ECARPipeline):
    """Tokenizer + baseline: class labels in, images out; arguments as of :class:`ECARPipeline`."""

    makes: ClassVar[type[LatentGenerator]] = Baseline

    def __init__(self, model: Baseline, tokenizer: Tokenizer, check_tokenizer: bool = True):
        super().__init__(model, tokenizer, check_tokenizer)  # ty: ignore[invalid-argument-type]

    @property
    def tracer(self) -> Callable[..., Stream]:
        """The baseline's own ``trace``."""
        return self.model.trace


def load_pipeline(name_or_path: str | Path, **options: Any) -> ECARPipeline:
    """The pipeline that a checkpoint folder holds, of E-CAR or of a baseline.

    Raises:
        EcarError: see ``ECARPipeline.from_pretrained``.
    """
    folder = resolve_checkpoint(name_or_path)
    try:
        name = json.loads((folder / "model_index.json").read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError):
        name = ECARPipeline.__name__  # which says what is wrong with the folder
    kind = BaselinePipeline if name == BaselinePipeline.__name__ else ECARPipeline
    return kind.from_pretrained(folder, **options)


def make_pipeline(model: LatentGenerator, tokenizer: Tokenizer) -> ECARPipeline:
    """The pipeline for a model in memory."""
    kind: type[ECARPipeline] = ECARPipeline if isinstance(model, ECAR) else BaselinePipeline
    return kind(model=model, tokenizer=tokenizer)  # ty: ignore[invalid-argument-type]
