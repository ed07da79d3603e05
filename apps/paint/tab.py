"""The tab Paint a stage: you are a stage. What you paint, the later stages complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from apps.paint import runs
from apps.paint.runs import BEGINNINGS, MOST_CLASSES, MOST_SEEDS, Painting, Wish
from apps.shared.once import Once
from apps.shared.parts import (
    PRIVATE,
    QUEUE,
    Slider,
    banner,
    piece,
    seed_field,
    show_banner,
    visitor,
)
from apps.shared.recipes import check_settings
from apps.shared.settings import Settings, whole
from apps.shared.studio import Studio
from apps.shared.waiting import follow, in_sentences, let_stop, press, tell
from apps.tokenizer.tab import EXTENSIONS
from apps.tokenizer.uploads import open_upload
from ecar_lab.errors import EcarError

CANVAS, RESULTS = "paint-canvas", "paint-results"
SCRIPTS = ("shared/grid.js", "paint/paint.js")
INTRODUCTION = (
    "Be the coarse stage yourself. Colour a few cells: they become the state in which a stage "
    "ends, and the later stages complete it, each class and each seed in its own way. Press an "
    "image to keep it as a run, with its recipe."
)
NO_RUN = "you have no run yet: press Generate on the first tab"
NO_LATER = (
    "This model has one stage, so none is left to complete a painting. Start the demo on a "
    "checkpoint with more, `ecar app --checkpoint cifar10`."
)
# What suits the beginnings, where the model knows it.
FIRST_CLASSES = ("automobile", "ship")


class Paint:
    """Canvas, wishes, and the images."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._opening = Once[dict[str, Any]]()
        model, size = studio.pipeline.model, studio.pipeline.image_size
        self.stages = model.schedule.num_stages
        # Cells as the stages see them, and one per pixel, for strokes.
        self.sides = sorted({side for side in (*model.schedule.resolutions, size) if side >= 2})
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
        self.banner = show_banner(NO_LATER if self.stages == 1 else None, "paint-banner")
        known = [name for name in FIRST_CLASSES if name in studio.class_names]
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=4, min_width=300, elem_id="paint-controls"):
                self.canvas = piece(
                    "canvas", CANVAS, "Canvas", *SCRIPTS, value=self._first_canvas()
                )
                with gr.Row():
                    self.upload = gr.UploadButton(
                        "From a picture of yours",
                        file_types=EXTENSIONS,
                        file_count="single",
                        type="filepath",
                        min_width=120,
                        elem_id="paint-upload",
                    )
                    self.latest = gr.Button(
                        "From my latest run", min_width=120, elem_id="paint-latest"
                    )
            with gr.Column(scale=3, min_width=240):
                later = [(f"{stage + 1}", stage) for stage in range(self.stages - 1)]
                self.stage = gr.Radio(
                    later,
                    value=0 if later else None,
                    label="It takes the place of stage",
                    info="And of those before it. The later it is, the more of the painting stays.",
                    elem_id="paint-stage",
                )
                self.classes = gr.Dropdown(
                    studio.class_names,
                    value=known or studio.class_names[:2],
                    multiselect=True,
                    max_choices=MOST_CLASSES,
                    label="Classes",
                    elem_id="paint-classes",
                )
                self.seed = seed_field(0, "First seed", "paint-seed")
                self.count = Slider(1, MOST_SEEDS, 4, step=1, label="Seeds", elem_id="paint-count")
                self.live = gr.Checkbox(
                    True,
                    label="Live: complete every stroke at once",
                    elem_id="paint-live",
                )
                with gr.Row():
                    self.go = gr.Button(
                        "Complete it", variant="primary", min_width=130, elem_id="paint-go"
                    )
                    self.stop = gr.Button(
                        "Stop", variant="stop", interactive=False, min_width=90,
                        elem_id="paint-stop",
                    )  # fmt: skip
            with gr.Column(scale=7, min_width=330):
                self.results = piece("completed", RESULTS, "Completed", *SCRIPTS)

    def _first_canvas(self) -> dict[str, Any]:
        side = self.sides[0]
        return {
            "sides": self.sides,
            "beginnings": {
                name: {str(side): runs.beginning(name, side).colours for side in self.sides}
                for name in BEGINNINGS
            },
            "colours": list(runs.beginning(next(iter(BEGINNINGS)), side).colours),
        }

    # -- events ------------------------------------------------------------------------------------

    def wire(self, page: gr.Blocks) -> None:
        """Connects strokes and clicks to what they do."""
        wishes = [self.canvas, self.stage, self.classes, self.seed, self.count]
        shown = [self.results, self.banner, self.stop]
        page.load(self.open, None, shown, **PRIVATE, **QUEUE)
        press(self.go, self.complete, wishes, shown, RESULTS)
        # An image that is pressed becomes a run; the wish is the one that it was made of.
        self.made = self.results.select(
            self.keep, [self.results], shown, js=tell("wait", RESULTS), **PRIVATE, **QUEUE
        )
        self.made.then(None, js=tell("settled", RESULTS), **PRIVATE)
        live = (self.at_once, [self.live, *wishes], shown, RESULTS)
        for moved in (
            self.canvas.input, self.stage.input, self.classes.input,
            self.seed.submit, self.count.release,
        ):  # fmt: skip
            follow(moved, *live)
        taken = [self.canvas, self.banner]
        for event in (
            self.upload.upload(self.take_file, [self.upload, self.canvas], taken, **PRIVATE),
            self.latest.click(self.take_run, self.canvas, taken, **PRIVATE),
        ):
            follow(event.success, *live)
        let_stop(self.stop, RESULTS)

    def open(self) -> dict[Any, Any]:
        """What a visitor sees before the first stroke: the first painting completed. It is made
        once for all visitors."""
        if self.stages == 1:
            return {self.banner: banner(NO_LATER)}
        first = (self.canvas.value, self.stage.value, self.classes.value)

        def shown() -> dict[str, Any]:
            wish = self._wish(*first, self.seed.value, self.count.value)
            *_, last = runs.complete(self.studio, wish)
            return last

        try:
            return {self.results: self._opening.get(None, shown), self.banner: ""}
        except EcarError as error:
            return {self.banner: banner(str(error))}

    def show(self, settings: Settings) -> dict[Any, Any]:
        """Updates that put class and first seed to those of a run."""
        return {self.classes: [settings.class_name], self.seed: settings.seed}

    def _wish(self, canvas: Any, stage: Any, classes: Any, seed: Any, count: Any) -> Wish:
        """What the controls say.

        Raises:
            EcarError: a value that is none of what they offer.
        """
        painting = Painting.of_page(canvas, self.sides)
        if stage is None:
            raise EcarError("no stage is chosen: choose the one that the painting stands for")
        return Wish.of_page(painting, stage, classes, seed, count)

    @in_sentences
    def complete(self, *wishes: Any) -> Iterator[dict[Any, Any]]:
        """The later stages complete what is painted."""
        for view in runs.complete(self.studio, self._wish(*wishes)):
            yield {self.results: view}

    @in_sentences
    def keep(self, request: gr.Request, view: Any, chosen: gr.EventData) -> Iterator[dict]:
        """One of the images, made alone, as a run with all its frames and a recipe."""
        if not isinstance(view, Mapping):
            raise EcarError("there is no image yet: press Complete it")
        painting = Painting.of_page(view, self.sides)
        stage = whole(view.get("stage"), "stage") - 1
        model = self.studio.pipeline.model
        name, seed = (chosen._data.get(key) for key in ("name", "seed"))
        painted = painting.at(stage)
        settings = Settings.of(model, name, whole(seed, "seed"), painted=painted)
        check_settings(model, settings)
        for _ in self.studio.run(settings, visitor(request)):
            yield {self.banner: ""}
        number = self.studio.folders.runs(visitor(request))[-1].number
        yield {self.results: {**view, "kept": f"Run {number} in the tab Runs: {settings}."}}

    def at_once(self, live: bool, *wishes: Any) -> Iterator[dict[Any, Any]]:
        """A stroke or another wish: completed at once, if that is wanted."""
        if live:
            yield from self.complete(*wishes)

    def take_file(self, file: str, canvas: Any) -> dict[Any, Any]:
        """A visitor's picture as a painting."""
        return self._take(lambda: open_upload(Path(file)), canvas)

    def take_run(self, request: gr.Request, canvas: Any) -> dict[Any, Any]:
        """The image of the visitor's latest run as a painting."""

        def latest() -> Image.Image:
            recent = self.studio.folders.runs(visitor(request))
            if not recent:
                raise EcarError(NO_RUN)
            with Image.open(recent[-1].image) as image:
                return image.convert("RGB")

        return self._take(latest, canvas)

    def _take(self, find: Any, canvas: Any) -> dict[Any, Any]:
        try:
            side = Painting.of_page(canvas, self.sides).side
            painting = runs.painting_of_file(find(), side, self.studio.pipeline.image_size)
        except EcarError as error:
            return {self.banner: banner(str(error))}
        return {self.canvas: {**canvas, "colours": list(painting.colours)}, self.banner: ""}
