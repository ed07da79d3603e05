"""The Generate tab: one image comes into being, live, and can be walked through afterwards."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from apps.generate.views import cost_table
from apps.shared.current import CurrentRun
from apps.shared.parts import (
    PRIVATE,
    RunControls,
    banner,
    player,
    show_banner,
    visitor,
)
from apps.shared.settings import Settings
from apps.shared.stream import Progress, blank_view
from apps.shared.studio import Studio
from apps.shared.waiting import in_sentences, let_stop, press

PLAYER = "generate-player"
# Tabs that look further at a run.
ONWARD = ("Compare", "Inspect", "Intervene", "Paint")
INTRODUCTION = (
    "Each stage asks the transformer once for a token map; then a small flow model carries the "
    "latent part of the way from noise to image. The next stage starts from there: twice the size, "
    "with a little new noise."
)


class Generate:
    """Controls, the player, the finished image and what it cost."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
        self.banner = show_banner(None, "generate-banner")
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="generate-controls"):
                self.controls = RunControls(studio, "generate")
                self.changes = gr.State(None)  # a run's settings, whose changes are made here, too
                with gr.Row(visible=False, elem_id="generate-changes") as self.changed:
                    self.words = gr.HTML("", apply_default_css=False)
                    self.plain = gr.Button(
                        "Leave it out", size="sm", min_width=110, scale=0, elem_id="generate-plain"
                    )
                with gr.Row():
                    self.go = gr.Button(
                        "Generate", variant="primary", min_width=130, elem_id="generate"
                    )
                    self.stop = gr.Button(
                        "Stop", variant="stop", interactive=False, min_width=90, elem_id="stop"
                    )
            with gr.Column(scale=6, min_width=330):
                view = blank_view(studio.pipeline, studio.defaults(), studio.folders.root)
                self.player = player(view, PLAYER, "Stages")
                with gr.Row(elem_id="onward", elem_classes="onward"):
                    self.onward = {
                        name: gr.Button(
                            f"{name} this", size="sm", min_width=100,
                            elem_id=f"onward-{name.lower()}",
                        )
                        for name in ONWARD
                    }  # fmt: skip
                    self.current = CurrentRun(studio)
            with gr.Column(scale=4, min_width=300, elem_id="generate-result"):
                self.picture = gr.Image(
                    label="Image",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    alt_text="No image yet",
                    elem_id=f"{PLAYER}-picture",
                    elem_classes="pixels",
                )
                self.costs = gr.HTML("", apply_default_css=False, elem_classes="costs")

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        shown: list[Any] = [self.player, self.picture, self.costs, self.controls.seed]
        shown += [self.banner, self.go, self.stop]
        opened = page.load(self.open, None, shown, concurrency_limit=None, **PRIVATE)
        made = press(
            self.go, self.run, [self.changes, *self.controls.inputs], shown, PLAYER,
            cancels=[opened],
        )  # fmt: skip
        let_stop(self.stop, PLAYER)
        self.current.after(made)
        self.plain.click(
            lambda: self._show_changes(None), None, [self.changes, self.changed, self.words],
            queue=False, **PRIVATE,
        )  # fmt: skip

    def open(self) -> dict:
        """What a visitor sees before the first click: an image that the model made at the start."""
        progress = self.studio.opening()
        if self.studio.problem:
            return {self.banner: banner(self.studio.problem)}
        return self._update(progress) if progress else {self.banner: ""}

    @property
    def shown(self) -> list[Any]:
        """What :meth:`show` updates."""
        return [*self.controls.inputs, self.changes, self.changed, self.words]

    def show(self, settings: Settings) -> dict[Any, Any]:
        """Updates that put controls and changes to these settings."""
        return {**self.controls.show(settings), **self._show_changes(settings)}

    def _show_changes(self, settings: Settings | None) -> dict[Any, Any]:
        changed = settings is not None and settings != settings.plain()
        words = html.escape("; ".join(settings.changes()) if settings and changed else "")
        return {
            self.changes: settings if changed else None,
            self.changed: gr.Row(visible=changed),
            self.words: f"<p>Changed on its way: {words}.</p>",
        }

    @in_sentences
    def run(self, request: gr.Request, changes: Settings | None, *values: Any) -> Iterator[dict]:
        """One click on Generate."""
        settings = self.controls.settings(*values)
        if changes is not None:
            settings = settings.changed_as(changes)
        first: dict[Any, Any] = {self.controls.seed: settings.seed}
        for progress in self.studio.run(settings, visitor(request), "generate"):
            yield {**first, **self._update(progress)}
            first = {}

    def _update(self, progress: Progress) -> dict:
        update: dict[Any, Any] = {self.player: progress.view, self.costs: cost_table(progress)}
        if progress.image:
            text = f"Generated image: {progress.settings}"
            update[self.picture] = gr.Image(str(progress.image), alt_text=text)
        return update
