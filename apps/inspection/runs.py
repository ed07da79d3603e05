"""The runs that are open for inspection, each computed once, and the check of their cache."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from apps.inspection.views import attention_view, draw
from apps.shared.once import Once
from apps.shared.settings import Settings
from apps.shared.studio import Studio, a_folder
from ecar_lab.benchmark.caching import CacheComparison, compare_cache
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.events import TraceEvent

# Runs opened for inspection that a visitor, and that all of them, can go back to at once.
KEEP, KEEP_ALL = 4, 64


@dataclass
class Inspection:
    """One run, opened.

    Attributes:
        ends: the last event of every stage. pictures: the view without attention.
        attention: the view's part for every layer looked at so far.
    """

    settings: Settings
    folder: Path
    ends: list[TraceEvent]
    pictures: dict[str, Any]
    attention: dict[int, dict[str, Any]] = field(default_factory=dict)

    def view(self, layer: int) -> dict[str, Any]:
        """JSON for inspection.js."""
        return {**self.pictures, **self.attention[layer], "layer": layer}


class Inspections:
    """The runs that visitors have opened, each computed once per layer; the oldest make room."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._made = Once[Inspection]()
        self._kept: OrderedDict[tuple[str | None, Settings], Inspection] = OrderedDict()
        self._lock = Lock()

    def open(self, settings: Settings, layer: int, visitor: str | None) -> Inspection:
        """The run of these settings with the attention of one layer.

        Raises:
            EcarError: settings or a layer that the model does not have, no memory.
        """
        settings.check_whole()
        key = (visitor, settings)

        def compute() -> Inspection:
            return self._compute(settings, layer, visitor)

        found = self._made.get(key, compute)
        if not found.folder.exists():
            self._made.drop(key, found)
            found = self._made.get(key, compute)
        if layer not in found.attention:
            events = self.studio.trace(settings, attention_layer=layer)
            found.attention[layer] = attention_view([e for e in events if e.step == 0])
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            spare = self._make_room(visitor)
        for other, kept in spare.items():
            self._made.drop(other, kept)
        self.studio.folders.show(visitor, "inspect", [found.folder])
        return found

    def _compute(self, settings: Settings, layer: int, visitor: str | None) -> Inspection:
        events = list(self.studio.trace(settings, attention_layer=layer))
        ends = [event for event in events if event.is_stage_end]
        with a_folder(self.studio, visitor) as folder:
            pictures = draw(self.studio, settings, ends, folder)
        attention = attention_view([event for event in events if event.step == 0])
        return Inspection(settings, folder, ends, pictures, {layer: attention})

    def _make_room(self, visitor: str | None) -> dict[tuple[str | None, Settings], Inspection]:
        """Takes away what is too much, and returns it."""
        own = [key for key in self._kept if key[0] == visitor]
        gone = [key for key, kept in self._kept.items() if not kept.folder.exists()]
        spare = [key for key in self._kept if key[0] is not None][: -KEEP_ALL or None]
        return {key: self._kept.pop(key) for key in {*own[:-KEEP], *gone, *spare}}


def compare_caches(studio: Studio, inspection: Inspection) -> list[CacheComparison]:
    """With and without the cache on the end states of a run: in the dtype used, and in float32."""
    # The labels of a run may change from stage to stage, the masked call takes one: the first.
    ends = [event.latent for event in inspection.ends[:-1]]
    labels = inspection.ends[0].class_labels
    with told_when_memory_is_full():
        return [
            compare_cache(studio.pipeline.model.transformer, ends, labels, dtype)
            for dtype in dict.fromkeys((studio.dtype, torch.float32))
        ]
