"""The Compare tab: E-CAR beside a DiT, one class and seed, along a common axis of time or work."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from apps.compare.runs import UNTRAINED, Moment, Rival, compare
from apps.compare.views import result_table
from apps.shared.parts import (
    MAX_GUIDANCE,
    RunControls,
    Slider,
    script,
    show_banner,
)
from apps.shared.parts import visitor as visitor_of
from apps.shared.settings import number, whole
from apps.shared.studio import Studio
from apps.shared.waiting import in_sentences, let_stop, press
from ecar_lab.errors import EcarError

LANES = "compare-lanes"
PLACE = f'<div class="lanes" data-name="{LANES}" role="group" aria-label="Both runs"></div>'
DIT_STEPS, MAX_DIT_STEPS = 50, 250
INTRODUCTION = (
    "A DiT works at full size in every step, E-CAR only in its last stage. Both make an image of "
    "the same class from the same seed, one after the other and while nothing else computes; "
    "then you watch them side by side."
)
TRAINED = (
    "The DiT is <code>{}</code>, the checkpoint beside this one; the table says on how many images "
    "each was trained."
)
NO_DIT = (
    "There is no checkpoint <code>{}-dit</code> beside this one: a DiT of the same number of "
    "parameters with random weights stands in. It is <strong>{}</strong>, and shows no image."
)


class Compare:
    """Controls of both models, the lanes, the finished images and the table."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.rival = Rival(studio)
        gr.HTML(f"<p>{INTRODUCTION}</p>{self._who()}", elem_classes="introduction")
        self.banner = show_banner(None, "compare-banner")
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="compare-controls"):
                self.controls = RunControls(studio, "compare")
                guidance = self.rival.default_guidance
                self.dit_steps = Slider(
                    1, MAX_DIT_STEPS, DIT_STEPS, step=1, label="Steps, DiT", elem_id="dit-steps"
                )
                self.dit_guidance = Slider(
                    0.0,
                    max(MAX_GUIDANCE, guidance),
                    guidance,
                    step=0.1,
                    label="Guidance, DiT",
                    elem_id="dit-guidance",
                )
                with gr.Row():
                    self.go = gr.Button(
                        "Compare", variant="primary", min_width=130, elem_id="compare"
                    )
                    self.stop = gr.Button(
                        "Stop", variant="stop", interactive=False, min_width=90,
                        elem_id="compare-stop",
                    )  # fmt: skip
            with gr.Column(scale=8, min_width=330):
                self.lanes = gr.HTML(
                    {"status": "Nothing has run yet: press Compare."},
                    html_template=PLACE,
                    js_on_load=script("compare/compare.js"),
                    apply_default_css=False,
                    elem_id=LANES,
                    elem_classes="player-host",
                )
                with gr.Row():
                    with gr.Column(scale=3, min_width=300, visible=False) as self.frame:
                        self.pictures = gr.ImageSlider(
                            label="Finished images: E-CAR left, DiT right",
                            format="png",
                            type="filepath",
                            interactive=False,
                            buttons=["fullscreen"],
                            elem_id="compare-pictures",
                            elem_classes="pixels",
                        )
                    with gr.Column(scale=4, min_width=300):
                        self.table = gr.HTML(
                            "", apply_default_css=False, elem_id="compare-table",
                            elem_classes="costs",
                        )  # fmt: skip

    def _who(self) -> str:
        """What the other model is."""
        name = html.escape(self.studio.checkpoint.resolve().name)
        folder = self.rival.folder
        words = TRAINED.format(html.escape(folder.name)) if folder else NO_DIT.format(
            name, UNTRAINED
        )  # fmt: skip
        return f'<p id="compare-who">{words}</p>'

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do."""
        shown: list[Any] = [self.lanes, self.frame, self.pictures, self.table, self.controls.seed]
        shown += [self.banner, self.go, self.stop]
        self.made = press(
            self.go, self.run, [*self.controls.inputs, self.dit_steps, self.dit_guidance], shown,
            LANES,
        )  # fmt: skip
        let_stop(self.stop, LANES)

    @in_sentences
    def run(self, request: gr.Request, *values: Any) -> Iterator[dict]:
        """One click on Compare."""
        *own, dit_steps, dit_guidance = values
        settings = self.controls.settings(*own)
        steps = whole(dit_steps, "steps of the DiT")
        if not 1 <= steps <= MAX_DIT_STEPS:
            raise EcarError(f"{steps} steps of the DiT: use 1 to {MAX_DIT_STEPS}")
        guidance = number(dit_guidance, "guidance of the DiT")
        folder = self.studio.folders.new_run(visitor_of(request), "compare")
        first: dict[Any, Any] = {self.controls.seed: settings.seed}
        try:
            for moment in compare(self.studio, self.rival, settings, steps, guidance, folder):
                yield {**first, **self._update(moment)}
                first = {}
        except FileNotFoundError:  # the visitor has left, and with them the folder
            if folder.exists():
                raise
        finally:
            self.studio.folders.close_run(folder)

    def _update(self, moment: Moment) -> dict:
        if moment.view is None:
            return {self.lanes: {"status": moment.status}}
        images = [lane.image for lane in moment.lanes]
        both = all(images)
        return {
            self.lanes: moment.view,
            self.frame: gr.update(visible=both),
            self.pictures: tuple(map(str, images)) if both else None,
            self.table: result_table(moment),
        }
