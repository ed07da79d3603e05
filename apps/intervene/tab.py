"""The Intervene tab: a base image, and what becomes of it when something is changed on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gradio as gr

from apps.intervene import runs, views
from apps.intervene.controls import Interventions, piece
from apps.intervene.runs import Bases, Made, make
from apps.shared.parts import LATEST, PRIVATE, QUEUE, RunControls, spoken_errors, tell, visitor
from apps.shared.settings import Edit, Settings, seed_of, whole
from apps.shared.studio import Studio
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.doctor.probe import boundary_scores
from ecar_lab.errors import EcarError

RESULTS = "intervene-results"
INTRODUCTION = (
    "What does each stage decide? Start from a base image, then change one thing on its way. "
    "Every result is noted among your runs."
)
NO_RUN = "you have no run yet: press Generate on the first tab, or Base image here"


class Intervene:
    """Controls of the base, one tab per intervention, and the results."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.bases = studio, Bases(studio)
        self.stages = studio.pipeline.model.schedule.num_stages
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
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
                self.results = piece("results", RESULTS, "Results")

    # -- events ------------------------------------------------------------------------------------

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        where = [self.tabs.painter, self.tabs.paint_stage, self.tabs.paint_moment]
        shown = [self.results, self.base, self.tabs.painter, self.controls.seed]
        page.load(self.open, where[1:], shown, concurrency_limit=None, **PRIVATE)

        def on(button: gr.Button, act: Callable, own: list[Any], outputs: list[Any]) -> None:
            made = button.click(
                act, own, outputs, js=tell("wait", RESULTS), **PRIVATE, **QUEUE
            )  # fmt: skip
            self.made.append(made)
            made.failure(None, js=tell("stop", RESULTS), **PRIVATE)

        common = [*where, self.base, *self.controls.inputs]
        on(self.go, self.make_base, common, shown)
        on(self.latest, self.latest_as_base, where, [*shown[:-1], *self.controls.inputs])
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
        painted = [self.tabs.action, self.tabs.copy_class, self.tabs.copy_seed, *common]
        on(self.tabs.paint_go, self.paint, painted, shown)
        on(
            self.tabs.swap_go,
            self.swap_noise,
            [self.tabs.swap_seed, *self.tabs.swap, *common],
            shown,
        )
        on(self.tabs.renoise_go, self.leave_noise_out, [self.tabs.renoise, *common], shown)
        for choice in where[1:]:
            choice.input(
                self.show_painter, [*where, self.base], self.tabs.painter,
                **LATEST, **PRIVATE, **QUEUE,
            )  # fmt: skip
        self.tabs.action.input(
            lambda action: gr.Row(visible=action == "copy"),
            self.tabs.action, self.tabs.other_image, queue=False, **LATEST, **PRIVATE,
        )  # fmt: skip

    def open(self, stage: int, moment: str) -> dict[Any, Any]:
        """What a visitor sees first: the base that all see first."""
        if self.studio.opening() is None:
            return {self.base: None}
        base = self.bases.of(self.studio.defaults(), None)
        return self._update(base, views.base_view(base), None, stage, moment)

    def make_base(self, request: gr.Request, *common: Any) -> dict[Any, Any]:
        """The image that the controls say."""
        with spoken_errors(), told_when_memory_is_full():
            base, where = self._base(request, common)
            return self._update(base, views.base_view(base), *where)

    def latest_as_base(self, request: gr.Request, *where: Any) -> dict[Any, Any]:
        """The visitor's latest run, whatever was changed in it."""
        with spoken_errors(), told_when_memory_is_full():
            recent = self.studio.folders.runs(visitor(request))
            if not recent:
                raise EcarError(NO_RUN)
            base = self.bases.of(recent[-1].settings, visitor(request))
            update = self._update(base, views.base_view(base), *where)
        return {**update, **self.controls.show(base.settings)}

    def show_painter(
        self, request: gr.Request, painter: dict | None, stage: int, moment: str, base: Settings
    ) -> dict[str, Any]:
        """Another latent to paint on."""
        with spoken_errors(), told_when_memory_is_full():
            made = self.bases.of(base or self.studio.defaults(), visitor(request))
            return views.painter_view(made, stage, moment, (painter or {}).get("mask"))

    def fork(
        self, request: gr.Request, stage: int | None, count: float, seed: float, *common: Any
    ) -> dict[Any, Any]:
        """Variants that share the stages so far."""
        with spoken_errors(), told_when_memory_is_full():
            stage = runs.check_later(stage, self.stages, "a fork")
            base, where = self._base(request, common)
            settings = runs.forked(base.settings, stage, whole(count, "count"), seed_of(seed))
            made = runs.run_fork(self.studio, settings, visitor(request))
            self._keep(request, *made)
            return self._update(base, views.fork_view(base, stage, made), *where)

    def change_class(
        self, request: gr.Request, stage: int | None, class_name: str, *common: Any
    ) -> dict[Any, Any]:
        """Another class from a stage on."""
        with spoken_errors(), told_when_memory_is_full():
            stage = runs.check_later(stage, self.stages, "another class")
            return self._changed(
                request, common, lambda settings: runs.with_class(settings, stage, class_name)
            )

    def paint(
        self, request: gr.Request, action: str, other_class: str, other_seed: float, *common: Any
    ) -> dict[Any, Any]:
        """Replaces what is painted on a stage's latent."""
        painter, stage, moment = common[:3]
        with spoken_errors(), told_when_memory_is_full():
            if not painter or painter.get("stage") != stage:
                raise EcarError("no cell is painted: paint at least one")
            other = (other_class, seed_of(other_seed)) if action == "copy" else (None, None)
            mask = tuple(painter["mask"])

            def change(settings: Settings) -> Settings:
                step = views.step_of(settings, stage, moment)
                return runs.with_edit(settings, Edit(stage, mask, action, step, *other))

            return self._changed(request, common, change)

    def swap_noise(self, request: gr.Request, seed: float, *rest: Any) -> dict[Any, Any]:
        """The noise of another seed in some stages."""
        letters, common = rest[: self.stages], rest[self.stages :]
        chosen = [letter == "B" for letter in letters]
        with spoken_errors(), told_when_memory_is_full():
            other = seed_of(seed)
            base, where = self._base(request, common)
            plain = dataclasses.replace(base.settings, seed=other, seeds=())
            b = make(self.studio, plain, visitor(request))
            mixed = make(
                self.studio, runs.with_noise_of(base.settings, other, chosen), visitor(request)
            )
            self._keep(request, b, mixed)
            says = f"A is seed {base.settings.seed}, B is {other}; stages: {', '.join(letters)}."
            view = views.changed_view(base, mixed, says, [("Seed B alone", b)])
            return self._update(base, view, *where)

    def leave_noise_out(
        self, request: gr.Request, stages: list[int], *common: Any
    ) -> dict[Any, Any]:
        """Upsampling without the noise that should follow it."""
        with spoken_errors(), told_when_memory_is_full():
            return self._changed(
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

    def _base(self, request: gr.Request, common: tuple) -> tuple[Made, tuple]:
        """The base in sight, or a new one if the controls say otherwise; and where to paint."""
        (painter, stage, moment, known), values = common[:4], common[4:]
        settings = self.controls.settings(*values)
        if known is not None and runs.plain(known) == settings:
            settings = known
        return self.bases.of(settings, visitor(request)), (painter, stage, moment)

    def _changed(
        self,
        request: gr.Request,
        common: tuple,
        change: Callable[[Settings], Settings],
        words: Callable[[Made, Made], str] = lambda base, changed: "",
    ) -> dict[Any, Any]:
        base, where = self._base(request, common)
        changed = make(self.studio, change(base.settings), visitor(request))
        self._keep(request, changed)
        view = views.changed_view(base, changed, words(base, changed))
        return self._update(base, view, *where)

    def _keep(self, request: gr.Request, *results: Made) -> None:
        """The page shows these from now on."""
        folders = [made.image.parent for made in results]
        self.studio.folders.show(visitor(request), "results", folders)

    def _update(
        self, base: Made, view: dict[str, Any], painter: dict | None, stage: int, moment: str
    ) -> dict[Any, Any]:
        mask = (painter or {}).get("mask")
        return {
            self.results: view,
            self.base: base.settings,
            self.tabs.painter: views.painter_view(base, stage, moment, mask),
            self.controls.seed: base.settings.seed,
        }
