"""The controls of the Intervene tab: one small tab per intervention."""

from __future__ import annotations

import gradio as gr

from apps.intervene.runs import FEWEST, MOST
from apps.shared.parts import Slider, piece, seed_field
from apps.shared.studio import Studio

SCRIPTS = ("shared/grid.js", "intervene/intervene.js")
FORK = "Keeps the stages up to the one chosen and draws new noise for all later ones."
CLASS = "From the chosen stage on another class is wanted."
PAINT = (
    "Paint pixels of a stage's latent: drag, or arrow keys and Enter; Shift and an arrow goes on "
    "painting. They are replaced, and the run goes on from there."
)
SWAP = "A is the base's seed. Each stage takes its noise from A or from B."
RENOISE = (
    "Between stages the latent is upsampled: every pixel becomes a block, its noise too. Fresh "
    "noise breaks the blocks up. Leave it out, and they stay."
)


class Interventions:
    """What can be chosen for each intervention, and the button that does it."""

    def __init__(self, studio: Studio) -> None:
        self.names = studio.class_names
        self.stages = studio.pipeline.model.schedule.num_stages
        with gr.Tabs(elem_id="interventions"):
            self._add_fork()
            self._add_class()
            self._add_paint()
            self._add_swap()
            self._add_renoise()

    def _stage_radio(self, first: int, last: int, value: int, label: str, name: str) -> gr.Radio:
        """Stages ``first`` to ``last`` - 1 to choose from."""
        choices = [(f"{stage + 1}", stage) for stage in range(first, last)]
        value_or_none = value if first <= value < last else None
        return gr.Radio(choices, value=value_or_none, label=label, elem_id=f"intervene-{name}")

    @staticmethod
    def _seed(value: int, label: str, name: str) -> gr.Number:
        return seed_field(value, label, f"intervene-{name}")

    @staticmethod
    def _button(text: str, name: str) -> gr.Button:
        return gr.Button(text, variant="primary", elem_id=f"intervene-{name}", elem_classes="act")

    def _add_fork(self) -> None:
        with gr.Tab("Fork", id="fork"):
            gr.HTML(f"<p>{FORK}</p>")
            with gr.Row():
                self.fork_stage = self._stage_radio(
                    0, self.stages - 1, 0, "Fork after stage", "fork-stage"
                )
                self.fork_count = Slider(
                    FEWEST, MOST, 6, step=1, label="Variants", elem_id="intervene-count"
                )
                self.fork_seed = self._seed(1, "First seed of the variants", "fork-seed")
            self.fork_go = self._button("Fork", "fork-go")

    def _add_class(self) -> None:
        with gr.Tab("Class", id="class"):
            gr.HTML(f"<p>{CLASS}</p>")
            with gr.Row():
                self.class_stage = self._stage_radio(0, self.stages, 1, "From stage", "class-stage")
                self.class_name = gr.Dropdown(
                    self.names,
                    value=self.names[-1],
                    label="Other class",
                    elem_id="intervene-other-class",
                )
            self.class_go = self._button("Change the class", "class-go")

    def _add_paint(self) -> None:
        # What is not mounted yet loses a value that is followed by others in the same event (Gradio
        # 6.31 applies their differences to the value itself), and the painter gets such values.
        with gr.Tab("Paint", id="paint", render_children=True):
            gr.HTML(f"<p>{PAINT}</p>")
            with gr.Row():
                with gr.Column(min_width=280):
                    self.painter = piece("painter", "intervene-painter", "Painter", *SCRIPTS)
                with gr.Column(min_width=280):
                    self.paint_stage = self._stage_radio(
                        0, self.stages, 0, "Latent of stage", "paint-stage"
                    )
                    self.paint_moment = gr.Radio(
                        [("start", "start"), ("middle", "middle"), ("end", "end")],
                        value="end",
                        label="When",
                        info="Where the last stage ends no noise is left: new noise is zero.",
                        elem_id="intervene-moment",
                    )
                    self.action = gr.Radio(
                        [("new noise", "noise"), ("zero", "zero"), ("another image", "copy")],
                        value="noise",
                        label="Replace by",
                        elem_id="intervene-action",
                    )
                    with gr.Row(visible=False) as self.other_image:
                        self.copy_class = gr.Dropdown(
                            self.names, value=self.names[-1], label="Class of the other image"
                        )
                        self.copy_seed = self._seed(1, "Seed of the other image", "copy-seed")
            self.paint_go = self._button("Replace what is painted", "paint-go")

    def _add_swap(self) -> None:
        with gr.Tab("Swap", id="swap"):
            gr.HTML(f"<p>{SWAP}</p>")
            with gr.Row():
                self.swap_seed = self._seed(1, "Seed B", "swap-seed")
                self.swap = [
                    gr.Radio(
                        ["A", "B"],
                        value="B" if stage == self.stages - 1 else "A",
                        label=f"Noise of stage {stage + 1}",
                        elem_id=f"intervene-swap-{stage + 1}",
                        min_width=140,
                    )
                    for stage in range(self.stages)
                ]
            self.swap_go = self._button("Swap the noise", "swap-go")

    def _add_renoise(self) -> None:
        later = [(f"stage {stage + 1}", stage) for stage in range(1, self.stages)]
        with gr.Tab("Re-noise", id="renoise"):
            gr.HTML(f"<p>{RENOISE}</p>")
            self.renoise = gr.CheckboxGroup(
                later,
                value=[stage for _, stage in later],
                label="Leave out the new noise at the start of",
                elem_id="intervene-renoise-stages",
            )
            self.renoise_go = self._button("Leave it out", "renoise-go")
