"""The Inspect tab: who looks where, what the mask allows, what the token maps hold, what the KV
cache saves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from apps.inspection.runs import Inspection, Inspections, compare_caches
from apps.inspection.views import cache_table
from apps.shared.parts import (
    PRIVATE,
    RunControls,
    piece,
    show_banner,
    visitor,
)
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from apps.shared.waiting import follow, in_sentences, press
from ecar_lab.errors import EcarError

INSPECTOR = "inspect-view"
INTRODUCTION = (
    "Choose a patch of a stage, by mouse or with the arrow keys and Enter: the maps show where its "
    "token looks. A token sees its own stage and all earlier ones, never a later one."
)
CACHE_INTRODUCTION = (
    "Each stage asks the transformer once. The keys and values of earlier stages lie in a cache, "
    "so their tokens need not be computed again. The check runs the stages with the cache, without "
    "it, and as one masked call over all of them."
)
NO_RUN = "you have no run yet: press Generate on the first tab, or Inspect here"


class Inspect:
    """Controls, the inspector, and the check of the cache."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.inspections = Inspections(studio)
        layers = len(studio.pipeline.model.transformer.blocks)
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
        self.banner = show_banner(None, "inspect-banner")
        self.opened = gr.State(None)
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="inspect-controls"):
                self.controls = RunControls(studio, "inspect")
                with gr.Row():
                    self.go = gr.Button(
                        "Inspect", variant="primary", min_width=120, elem_id="inspect-go"
                    )
                    self.latest = gr.Button(
                        "Inspect my latest run", min_width=120, elem_id="inspect-latest"
                    )
                self.layer = gr.Radio(
                    [(f"{layer + 1}", layer) for layer in range(layers)],
                    value=layers - 1,
                    label="Layer of the transformer",
                    info="1 is the first. Each has attention of its own.",
                    elem_id="inspect-layer",
                )
            with gr.Column(scale=10, min_width=330):
                self.inspector = piece(
                    "inspector", INSPECTOR, "Attention, mask and token maps",
                    "inspection/inspection.js",
                )  # fmt: skip
                gr.HTML(
                    f"<h2>KV cache on and off</h2><p>{CACHE_INTRODUCTION}</p>",
                    elem_classes="cache-head",
                )
                self.check = gr.Button("Check the cache", elem_id="inspect-check")
                self.cache = gr.HTML("", apply_default_css=False, elem_id="inspect-cache")

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        shown = [self.inspector, self.banner, self.opened, self.cache]
        page.load(self.open, self.layer, shown, concurrency_limit=None, **PRIVATE)
        busy = [self.go, self.latest, self.check]
        self.made = press(
            self.go,
            self.inspect,
            [self.layer, *self.controls.inputs],
            [*shown, self.controls.seed],
            INSPECTOR,
            busy=busy,
        )
        press(
            self.latest,
            self.inspect_latest,
            [self.layer],
            [*shown, *self.controls.inputs],
            INSPECTOR,
            busy=busy,
        )
        follow(self.layer.input, self.change_layer, [self.layer, self.opened], shown, INSPECTOR)
        press(
            self.check,
            self.check_cache,
            [self.layer, self.opened],
            [self.cache, self.banner],
            INSPECTOR,
            busy=busy,
        )

    def open(self, layer: int) -> dict[Any, Any]:
        """What a visitor sees first: the run that all see first."""
        if self.studio.opening() is None:
            return {self.opened: None}
        # Not a generator: its last message would be sent twice.
        return self._update(self.inspections.open(self.studio.defaults(), layer, None), layer)

    @in_sentences
    def inspect(self, request: gr.Request, layer: int, *values: Any) -> Iterator[dict[Any, Any]]:
        """Opens the run that the controls say."""
        settings = self.controls.settings(*values)
        found = self.inspections.open(settings, layer, visitor(request))
        yield {**self._update(found, layer), self.controls.seed: settings.seed}

    @in_sentences
    def inspect_latest(self, request: gr.Request, layer: int) -> Iterator[dict[Any, Any]]:
        """Opens the visitor's latest run, whatever was changed in it."""
        runs = self.studio.folders.runs(visitor(request))
        if not runs:
            raise EcarError(NO_RUN)
        settings = runs[-1].settings
        found = self.inspections.open(settings, layer, visitor(request))
        yield {**self._update(found, layer), **self.controls.show(settings)}

    @in_sentences
    def change_layer(
        self, request: gr.Request, layer: int, opened: Settings | None
    ) -> Iterator[dict[Any, Any]]:
        """The attention of another layer of the run in sight."""
        settings = opened or self.studio.defaults()
        found = self.inspections.open(settings, layer, visitor(request))
        yield {self.inspector: found.view(layer), self.opened: settings}

    @in_sentences
    def check_cache(
        self, request: gr.Request, layer: int, opened: Settings | None
    ) -> Iterator[dict[Any, Any]]:
        """The transformer with and without its cache, on the run in sight."""
        settings = opened or self.studio.defaults()
        found = self.inspections.open(settings, layer, visitor(request))
        yield {self.cache: cache_table(compare_caches(self.studio, found))}

    def _update(self, found: Inspection, layer: int) -> dict[Any, Any]:
        return {
            self.inspector: found.view(layer),
            self.opened: found.settings,
            self.cache: "",  # it was that of another run
        }
