"""The Intervene tab: a base image, and what becomes of it when something is changed on the way."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from apps.intervene import runs, views
from apps.intervene.controls import SCRIPTS, Interventions
from apps.intervene.runs import Bases, Made, making
from apps.shared.parts import (
    LATEST,
    PRIVATE,
    QUEUE,
    RunControls,
    banner,
    piece,
    show_banner,
    visitor,
)
from apps.shared.settings import Edit, Settings, seed_of, whole
from apps.shared.stream import PAUSE
from apps.shared.studio import Studio
from apps.shared.waiting import in_sentences, let_stop, press
from ecar_lab.doctor.probe import boundary_scores
from ecar_lab.errors import EcarError

RESULTS = "intervene-results"
INTRODUCTION = (
    "What does each stage decide? Start from a base image, then change one thing on its way. "
    "Every result is noted among your runs."
)
Updates = Iterator[dict[Any, Any]]
NO_RUN = "you have no run yet: press Generate on the first tab, or Base image here"


class Intervene:
    """Controls of the base, one tab per intervention, and the results."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.bases = studio, Bases(studio)
        self.stages = studio.pipeline.model.schedule.num_stages
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
        self.banner = show_banner(None, "intervene-banner")
        self.base = gr.State(None)  # the settings of the base
        self.made: list[Any] = []  # events after which there is a new run
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="intervene-controls"):
                self.controls = RunControls(studio, "intervene")
                with gr.Row():
                    self.go = gr.Button(
                        "Base image", variant="primary", min_width=120, elem_id="intervene-base"
                    )
                    self.latest = gr.Button(
                        "My latest run as base", min_width=120, elem_id="intervene-latest"
                    )
            with gr.Column(scale=10, min_width=330):
                self.tabs = Interventions(studio)
                self.stop = gr.Button(
                    "Stop", variant="stop", size="md", interactive=False, elem_id="intervene-stop"
                )
                self.results = piece("results", RESULTS, "Results", *SCRIPTS)

    # -- events ------------------------------------------------------------------------------------

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        where = [self.tabs.painter, self.tabs.paint_stage, self.tabs.paint_moment]
        told = [self.results, self.banner, self.stop]
        shown = [*told, self.base, self.controls.seed]
        page.load(self.open, None, shown, concurrency_limit=None, **PRIVATE)
        tabs = self.tabs
        busy = [self.go, self.latest, tabs.fork_go, tabs.class_go, tabs.paint_go]
        busy += [tabs.swap_go, tabs.renoise_go]

        def on(button: gr.Button, act: Callable, own: list[Any], outputs: list[Any]) -> None:
            self.made.append(press(button, act, own, outputs, RESULTS, busy))

        common = [self.base, *self.controls.inputs]
        on(self.go, self.make_base, common, shown)
        on(self.latest, self.latest_as_base, [], [*shown[:-1], *self.controls.inputs])
        on(
            self.tabs.fork_go,
            self.fork,
            [self.tabs.fork_stage, self.tabs.fork_count, self.tabs.fork_seed, *common],
            shown,
        )
        on(
            self.tabs.class_go,
            self.change_class,
            [self.tabs.class_stage, self.tabs.class_name, *common],
            shown,
        )
        painted = [*where, self.tabs.action, self.tabs.copy_class, self.tabs.copy_seed, *common]
        on(self.tabs.paint_go, self.paint, painted, shown)
        on(
            self.tabs.swap_go,
            self.swap_noise,
            [self.tabs.swap_seed, *self.tabs.swap, *common],
            shown,
        )
        on(self.tabs.renoise_go, self.leave_noise_out, [self.tabs.renoise, *common], shown)
        let_stop(self.stop, RESULTS)
        # The painter follows the base and its own choices, as they are at that moment. A run that
        # brought it back as it was when the run began would undo what was chosen meanwhile.
        for happens in [self.base.change, *(choice.input for choice in where[1:])]:
            happens(
                self.show_painter, [*where, self.base], [self.tabs.painter, self.banner],
                **LATEST, **PRIVATE, **QUEUE,
            )  # fmt: skip
        self.tabs.action.input(
            lambda action: gr.Row(visible=action == "copy"),
            self.tabs.action, self.tabs.other_image, queue=False, **LATEST, **PRIVATE,
        )  # fmt: skip

    def open(self) -> dict[Any, Any]:
        """What a visitor sees first: the base that all see first."""
        if self.studio.opening() is None:
            return {self.base: None}
        base = self.bases.of(self.studio.defaults(), None)
        return self._update(base, views.base_view(base))

    @in_sentences
    def make_base(self, request: gr.Request, *common: Any) -> Updates:
        """The image that the controls say."""
        base, drawn = self._base(request, common)
        yield self._update(base, views.base_view(base), drawn)

    @in_sentences
    def latest_as_base(self, request: gr.Request) -> Updates:
        """The visitor's latest run, whatever was changed in it."""
        recent = self.studio.folders.runs(visitor(request))
        if not recent:
            raise EcarError(NO_RUN)
        base = self.bases.of(recent[-1].settings, visitor(request))
        update = self._update(base, views.base_view(base))
        yield {**update, **self.controls.show(base.settings)}

    def show_painter(
        self, request: gr.Request, painter: Any, stage: int, moment: str, base: Settings
    ) -> dict[Any, Any]:
        """Another latent to paint on."""
        settings = base or self.studio.defaults()
        try:
            made = self.bases.of(settings, visitor(request))
        except EcarError as error:
            return {self.banner: banner(str(error))}
        mask = painter_of(painter).get("mask")
        # In a list: Gradio 6.31 sends how one value of an event differs from the last; where the
        # page has not opened the painter's tab yet it would take the keys out of a bare dict that
        # "no change" lacks. A list is replaced as a whole.
        return {self.tabs.painter: [views.painter_view(made, stage, moment, mask)]}

    @in_sentences
    def fork(
        self, request: gr.Request, stage: int | None, count: Any, seed: Any, *common: Any
    ) -> Updates:
        """Variants that share the stages so far; each is shown when it is there."""
        stage = runs.check_later(stage, self.stages, "a fork")
        count, seed = whole(count, "variants"), seed_of(seed)
        base, drawn = self._base(request, common)
        settings = runs.forked(base.settings, stage, count, seed)
        made: list[Made] = []
        # One batch would be faster, but in float32 an image of a batch may differ from the same
        # image alone by a last bit, and then its recipe would not bring it back.
        for number, one in enumerate(settings, 1):
            name = f"Variant {number} of {count}"
            work = making(self.studio, one, visitor(request), name)
            made.append((yield from self._words(work)))
            yield {self.results: views.fork_view(base, stage, made, count)}
        self._keep(request, *made)
        yield self._update(base, views.fork_view(base, stage, made, count), drawn)

    @in_sentences
    def change_class(
        self, request: gr.Request, stage: int | None, class_name: str, *common: Any
    ) -> Updates:
        """Another class from a stage on."""
        stage = runs.check_later(stage, self.stages, "another class")
        yield from self._changed(
            request, common, lambda settings: runs.with_class(settings, stage, class_name)
        )

    @in_sentences
    def paint(
        self,
        request: gr.Request,
        painter: Any,
        stage: int,
        moment: str,
        action: str,
        other_class: str,
        other_seed: Any,
        *common: Any,
    ) -> Updates:
        """Replaces what is painted on a stage's latent."""
        painter = painter_of(painter)
        if painter.get("stage") != stage:
            raise EcarError("no cell is painted: paint at least one")
        other = (other_class, seed_of(other_seed)) if action == "copy" else (None, None)
        mask = tuple(painter["mask"])

        def change(settings: Settings) -> Settings:
            step = views.step_of(settings, stage, moment)
            return runs.with_edit(settings, Edit(stage, mask, action, step, *other))

        yield from self._changed(request, common, change)

    @in_sentences
    def swap_noise(self, request: gr.Request, seed: Any, *rest: Any) -> Updates:
        """The noise of another seed in some stages."""
        letters, common = rest[: self.stages], rest[self.stages :]
        chosen = [letter == "B" for letter in letters]
        other, owner = seed_of(seed), visitor(request)
        base, drawn = self._base(request, common)
        plain = dataclasses.replace(base.settings, seed=other, seeds=())
        b = yield from self._words(making(self.studio, plain, owner, "Seed B"))
        mixed = runs.with_noise_of(base.settings, other, chosen)
        changed = yield from self._words(making(self.studio, mixed, owner, "The mixture"))
        self._keep(request, b, changed)
        says = f"A is seed {base.settings.seed}, B is {other}; stages: {', '.join(letters)}."
        view = views.changed_view(base, changed, says, [("Seed B alone", b)])
        yield self._update(base, view, drawn)

    @in_sentences
    def leave_noise_out(self, request: gr.Request, stages: list[int], *common: Any) -> Updates:
        """Upsampling without the noise that should follow it."""
        yield from self._changed(
            request,
            common,
            lambda settings: runs.without_noise(settings, stages),
            self._boundary_words,
        )

    def _boundary_words(self, base: Made, changed: Made) -> str:
        model = self.studio.pipeline.model
        before, after = (boundary_scores(model, made.final) for made in (base, changed))
        if not before:
            return ""
        last = max(before)
        return (
            f"Boundary score of the finished latent on the grid of its blocks (1 is without a "
            f"trace of them): {before[last]:.2f} in the base, {after[last]:.2f} without new noise. "
            "One image says little; the experiments measure many."
        )

    # -- what they share ---------------------------------------------------------------------------

    def _words(self, work: runs.Work) -> Generator[dict, None, Made]:
        """Goes through the work, and says now and then in the results where it is."""
        said = -float("inf")
        while True:
            try:
                words = next(work)
            except StopIteration as done:
                return done.value
            if time.perf_counter() - said >= PAUSE:
                yield {self.results: {"status": words}}
                said = time.perf_counter()

    def _base(self, request: gr.Request, common: tuple) -> tuple[Made, bool]:
        """The base in sight, or a new one if the controls say otherwise; and whether its seed was
        drawn, so that the page has to be told."""
        known, *values = common
        _, seed, *_ = values
        settings = self.controls.settings(*values)
        if known is not None and runs.plain(known) == settings:
            settings = known
        return self.bases.of(settings, visitor(request)), seed is None

    def _changed(
        self,
        request: gr.Request,
        common: tuple,
        change: Callable[[Settings], Settings],
        words: Callable[[Made, Made], str] = lambda base, changed: "",
    ) -> Updates:
        base, drawn = self._base(request, common)
        work = making(self.studio, change(base.settings), visitor(request), "The changed run")
        changed = yield from self._words(work)
        self._keep(request, changed)
        view = views.changed_view(base, changed, words(base, changed))
        yield self._update(base, view, drawn)

    def _keep(self, request: gr.Request, *results: Made) -> None:
        """The page shows these from now on."""
        folders = [made.image.parent for made in results]
        self.studio.folders.show(visitor(request), "results", folders)

    def _update(self, base: Made, view: dict[str, Any], drawn: bool = False) -> dict[Any, Any]:
        update = {self.results: view, self.base: base.settings}
        return {**update, self.controls.seed: base.settings.seed} if drawn else update


def painter_of(value: Any) -> dict[str, Any]:
    """The painter's value, which is in a list; empty before there is any."""
    return value[0] if value else {}
