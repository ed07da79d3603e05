"""The All classes tab: every class from one seed, stage by stage; then a look inside one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from apps.generate.tab import Generate
from apps.overview.runs import counted, grow
from apps.shared.parts import (
    PRIVATE,
    QUEUE,
    piece,
    seed_field,
    show_banner,
    spoken_errors,
)
from apps.shared.settings import MAX_SEED, seed_of, whole
from apps.shared.studio import OPENING_SEED, Studio
from apps.shared.waiting import follow, in_sentences

IMAGES = "overview-images"
EXPLAINED = (
    "E-CAR paints an image coarse to fine: in each stage a transformer says once what belongs "
    "where, and a small flow model removes part of the noise; then the picture is doubled in size "
    "and goes on. The early steps are made while it is still tiny and cost next to nothing: "
    "{gflop:.1f} GFLOP an image here, counted, for {calls} calls of the transformer and {steps} "
    "flow steps."
)


class Overview:
    """The sentence, a seed, and the images."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._opening: dict[str, Any] | None = None
        self._lock = threading.Lock()
        cost = counted(studio, studio.defaults())
        gr.HTML(f"<p>{EXPLAINED.format(**vars(cost))}</p>", elem_classes="introduction explained")
        self.banner = show_banner(None, "overview-banner")
        with gr.Row(elem_classes="seed-row", equal_height=True):
            self.seed = seed_field(
                OPENING_SEED, "Seed", "overview-seed", min_width=240, scale=0,
                info="The noise that all of them start from.",
            )  # fmt: skip
            self.dice = gr.Button(
                "\N{DIE FACE-5} New seed", variant="primary", min_width=130, scale=0,
                elem_classes="dice", elem_id="overview-dice",
            )  # fmt: skip
        self.images = piece("overview", IMAGES, "All classes", "overview/overview.js")

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        shown = [self.images, self.banner]
        page.load(self.open, None, shown, **PRIVATE, **QUEUE)
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
        ).success(None, js="() => document.querySelector('#generate').click()", **PRIVATE)

    def open(self) -> Iterator[dict[Any, Any]]:
        """What a visitor sees first; made once for all visitors, each sees it grow."""
        with self._lock:
            if self._opening is None:
                for update in self.run(OPENING_SEED):
                    yield update
                    self._opening = update.get(self.images) or self._opening
                return
        yield {self.images: self._opening, self.banner: ""}

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
