"""The All classes tab: every class from one seed, stage by stage; then a look inside one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from apps.generate.tab import Generate
from apps.overview.runs import counted, dit_gflop, grow, work_bars
from apps.shared.parts import (
    PRIVATE,
    QUEUE,
    piece,
    seed_field,
    show_banner,
    spoken_errors,
)
from apps.shared.settings import MAX_SEED, seed_of, whole
from apps.shared.studio import Studio
from apps.shared.waiting import follow, in_sentences

IMAGES = "overview-images"
PRESS_GENERATE = (
    "() => document.dispatchEvent(new CustomEvent('ecar:press', { detail: '#generate' }))"
)
EXPLAINED = (
    "E-CAR paints an image coarse to fine: in each stage a transformer says once what belongs "
    "where, and a small flow model removes part of the noise; then the picture is doubled in size "
    "and goes on. It is cheap because most steps are made while the picture is tiny: an image here "
    "takes {calls} calls of the transformer and {steps} flow steps."
)


class Overview:
    """The sentence, a seed, and the images."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._opening: dict[str, Any] | None = None
        self._work: str | None = None
        self._counting = threading.Lock()
        self.cost = counted(studio, studio.defaults())
        self.banner = show_banner(None, "overview-banner")
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="overview-side"):
                told = EXPLAINED.format(**vars(self.cost))
                gr.HTML(f"<p>{told}</p>", elem_classes="introduction explained")
                self.work = gr.HTML("", apply_default_css=False, elem_id="overview-work")
                with gr.Row(elem_classes="seed-row", equal_height=True):
                    self.seed = seed_field(
                        studio.defaults().seed, "Seed", "overview-seed", min_width=110,
                        info="The noise of all.",
                    )  # fmt: skip
                    self.dice = gr.Button(
                        "\N{DIE FACE-5} New seed", variant="primary", min_width=140,
                        elem_classes="dice", elem_id="overview-dice",
                    )  # fmt: skip
            with gr.Column(scale=10, min_width=330):
                self.images = piece("overview", IMAGES, "All classes", "overview/overview.js")

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        shown = [self.images, self.banner]
        page.load(self.open, None, shown, **PRIVATE, **QUEUE)
        page.load(self.count, None, self.work, concurrency_limit=None, **PRIVATE)
        rolled = self.dice.click(
            None, outputs=[self.seed], js=f"() => Math.floor(Math.random() * {MAX_SEED})"
        )
        for moved in (self.seed.submit, rolled.then):
            follow(moved, self.run, self.seed, shown, IMAGES)

    def open_into(self, tabs: gr.Tabs, generate: Generate) -> None:
        """An image that is pressed is opened in the Generate tab, and made there step by step."""
        chosen = [generate.controls.class_name, generate.controls.seed]
        self.images.select(
            self.look_inside, self.images, [tabs, *chosen], queue=False, **PRIVATE
        ).success(None, js=PRESS_GENERATE, **PRIVATE)

    def open(self) -> Iterator[dict[Any, Any]]:
        """What a visitor sees first; made once for all visitors, each sees it grow."""
        if self._opening is not None:
            yield {self.images: self._opening, self.banner: ""}
            return
        shown = None
        for update in self.run(self.studio.defaults().seed):
            yield update
            shown = update.get(self.images) or shown
        self._opening = shown

    def count(self) -> str:
        """The work of an image beside that of a DiT; counted once, which takes a few seconds."""
        with self._counting:
            if self._work is None:
                self._work = work_bars(self.cost.gflop, dit_gflop(self.studio))
            return self._work

    @in_sentences
    def run(self, seed: Any) -> Iterator[dict[Any, Any]]:
        """All classes from a seed."""
        for view in grow(self.studio, seed_of(seed)):
            yield {self.images: view}

    def look_inside(self, view: Any, chosen: gr.EventData) -> tuple[Any, ...]:
        """The Generate tab, with class and seed of the image that was pressed."""
        name = chosen.name
        with spoken_errors():
            seed = whole(view.get("seed") if isinstance(view, Mapping) else None, "seed")
        if name not in self.studio.class_names:
            raise gr.Error(f"there is no class {name!r}", print_exception=False)
        return gr.Tabs(selected="generate"), name, seed
