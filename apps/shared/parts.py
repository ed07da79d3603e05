"""Pieces that several tabs are made of: the controls of a run, the player, the banner."""

from __future__ import annotations

import html
import math
import re
import secrets
from abc import ABCMeta
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta

from apps.server.queue import MODEL
from apps.shared.recipes import check_settings
from apps.shared.settings import MAX_SEED, Settings, number, whole
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from ecar_lab.flow import FEW_STEPS, FLOW_MAP, SOLVERS

HERE = Path(__file__).parent
APPS = HERE.parent
MAX_STEPS, MAX_GUIDANCE = 32, 8.0
# One image at a time, whoever asks for it, page or program; behind apps.server in turns.
QUEUE: dict[str, Any] = {"concurrency_id": MODEL, "concurrency_limit": 1}
# A control that is moved while its last move is still worked on: the last move counts.
LATEST: dict[str, Any] = {"trigger_mode": "always_last"}
# For events that only the page uses.
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
INTERVAL = {
    "from": "Local time within the stage, 0 to 1, of the first guided step.",
    "until": "Steps from here on are not guided, and cost half.",
}
ABOUT_SOLVERS = "ab2 remembers the step before, heun looks twice at every step."
# How many of the model's own steps a preset takes in each stage.
PRESETS = {"fast": 0.5, "balanced": 1.0, "best": 2.0}


def unchecked(kind: Any) -> Any:
    """A component that hands on what was typed as it was typed, for us to judge: Gradio would round
    it without a word, or end the event with a sentence and a traceback of its own.

    Made by hand, since Gradio writes a ``.pyi`` beside every file with a ``class`` of a component.
    """
    own = {"preprocess": lambda self, payload: payload, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(ComponentMeta, kind.__name__, (kind,), own)


Number, Slider = unchecked(gr.Number), unchecked(gr.Slider)


def seed_field(value: int, label: str, elem_id: str, **more: Any) -> gr.Number:
    """A field for a seed; it takes in anything, see :func:`unchecked`."""
    return Number(
        value, precision=0, minimum=0, maximum=MAX_SEED, label=label, elem_id=elem_id, **more
    )


class RunControls:
    """Class, seed with dice, preset, solver; of every stage steps, guidance, its interval, and the
    power of the time grid.

    ``inputs`` goes to an event, and what arrives to :meth:`settings`. ``prefix`` keeps the element
    ids of several of them on a page apart.
    """

    def __init__(self, studio: Studio, prefix: str) -> None:
        self.studio, defaults = studio, studio.defaults()
        self.default_steps = defaults.steps
        self.class_name = gr.Dropdown(
            studio.class_names, value=defaults.class_name, label="Class", elem_id=f"{prefix}-class"
        )
        with gr.Row(elem_classes="seed-row", equal_height=True):
            self.seed = seed_field(
                defaults.seed, "Seed", f"{prefix}-seed", info="Empty: a new one.", min_width=110
            )
            dice = gr.Button(
                "\N{DIE FACE-5} New seed",
                min_width=110,
                elem_classes="dice",
                elem_id=f"{prefix}-dice",
            )
        self.preset = gr.Radio(
            list(PRESETS),
            value="balanced",
            label="Preset",
            info="Flow steps: half of the model's own, its own, or twice as many"
            + (f", {max(FEW_STEPS)} at most." if studio.pipeline.model.few_step else "."),
            elem_id=f"{prefix}-preset",
        )
        with gr.Accordion("Steps, guidance and solver", open=False, elem_id=f"{prefix}-more"):
            self.steps = [
                Slider(1, max(MAX_STEPS, 2 * n), n, step=1, label=f"Steps, stage {stage}")
                for stage, n in enumerate(defaults.steps, 1)
            ]
            self.guidance = [
                Slider(
                    0.0,
                    max(MAX_GUIDANCE, scale),
                    scale,
                    step=0.1,
                    label=f"Guidance, stage {stage}",
                    info="How much the class counts. 1 is none, and half the work."
                    if stage == 1
                    else None,
                )
                for stage, scale in enumerate(defaults.guidance, 1)
            ]
            self.begins, self.ends = (
                [
                    Slider(
                        0.0,
                        1.0,
                        interval[end],
                        step=0.05,
                        label=f"Guidance {word}, stage {stage}",
                        info=info if stage == 1 else None,
                    )
                    for stage, interval in enumerate(defaults.all_intervals, 1)
                ]
                for end, (word, info) in enumerate(INTERVAL.items())
            )
            self.powers = [
                Slider(
                    0.5,
                    max(2.0, power),
                    power,
                    step=0.05,
                    label=f"Time power, stage {stage}",
                    info="1 is even steps; more makes the first ones shorter."
                    if stage == 1
                    else None,
                )
                for stage, power in enumerate(defaults.all_powers, 1)
            ]
            solvers = [*SOLVERS, FLOW_MAP] if studio.pipeline.model.few_step else list(SOLVERS)
            self.solver = gr.Radio(
                solvers, value=defaults.solver, label="Solver", info=ABOUT_SOLVERS
            )
        self.inputs = [self.class_name, self.seed, self.solver, *self._sliders]
        dice.click(None, outputs=[self.seed], js=f"() => Math.floor(Math.random() * {MAX_SEED})")
        self.preset.input(
            self._take_preset, self.preset, self.steps, queue=False, **LATEST, **PRIVATE
        )

    @property
    def _sliders(self) -> list[gr.Slider]:
        return [*self.steps, *self.guidance, *self.begins, *self.ends, *self.powers]

    def _take_preset(self, name: str) -> list[int]:
        few_step = self.studio.pipeline.model.few_step
        return preset_steps(self.default_steps, name, max(FEW_STEPS) if few_step else None)

    def settings(self, *values: Any) -> Settings:
        """What the controls say; a seed left empty is drawn.

        Raises:
            EcarError: a value that the model does not take.
        """
        class_name, seed, solver, *rest = values
        stages = len(self.default_steps)
        parts = [rest[first : first + stages] for first in range(0, 5 * stages, stages)]
        steps, guidance, begins, ends, powers = parts
        seed = secrets.randbelow(MAX_SEED) if seed is None else whole(seed, "seed")
        for name, values_of_stages, check in (
            ("steps", steps, whole),
            ("guidance", guidance, number),
            ("guidance from", begins, number),
            ("guidance until", ends, number),
            ("time power", powers, number),
        ):
            for stage, value in enumerate(values_of_stages, 1):
                check(value, f"{name} of stage {stage}")
        settings = Settings.of(
            self.studio.pipeline.model,
            class_name,
            seed,
            list(steps),
            list(guidance),
            intervals=list(zip(begins, ends, strict=True)),
            powers=list(powers),
            solver=solver,
        )
        check_settings(self.studio.pipeline.model, settings)
        return settings

    def show(self, settings: Settings) -> dict[Any, Any]:
        """Updates that put the controls to these settings. A slider that does not reach as far (a
        recipe may hold more steps than anybody would choose) is made longer."""
        values = {
            self.class_name: settings.class_name,
            self.seed: settings.seed,
            self.solver: settings.solver,
        }
        intervals = (end for ends in zip(*settings.all_intervals, strict=True) for end in ends)
        wanted = [*settings.steps, *settings.guidance, *intervals, *settings.all_powers]
        for slider, value in zip(self._sliders, wanted, strict=True):
            longest = max(slider.maximum, math.ceil(value))
            least = min(slider.minimum, value)
            values[slider] = Slider(value=value, minimum=least, maximum=longest)
        return values


def preset_steps(default_steps: Sequence[int], name: str, most: int | None = None) -> list[int]:
    """Steps per stage of a preset; ``most``: that a few-step model can make of a stage."""
    steps = [max(1, round(PRESETS[name] * count)) for count in default_steps]
    return [min(count, most or count) for count in steps]


def script(*names: str) -> str:
    """The JavaScript of a component, after what all have in common. ``names``: files, from
    ``apps/``."""
    files = ("shared/dom.js", "shared/wait.js", *names)
    return "".join((APPS / file).read_text(encoding="utf-8") for file in files)


def styles() -> list[Path]:
    """The style sheets of the page: what all tabs share, then each tab's own."""
    own = [sheet for sheet in sorted(APPS.glob("*/*.css")) if sheet.parent != HERE]
    return [*sorted(HERE.glob("*.css")), *own]


def piece(
    kind: str, elem_id: str, label: str, *scripts: str, value: Any = None, role: str = "group"
) -> gr.HTML:
    """A part of the page that a script of ours fills. ``kind``: its class, which tells scripts with
    several pieces apart."""
    return gr.HTML(
        value,
        html_template=f'<div class="{kind}" role="{role}" data-name="{elem_id}" '
        f'aria-label="{html.escape(label)}"></div>',
        js_on_load=script(*scripts),
        apply_default_css=False,
        elem_id=elem_id,
    )


def player(value: dict[str, Any], elem_id: str, label: str) -> gr.HTML:
    """Shows the views of ``apps.shared.stream`` as lanes that grow, with a scrubber; see player.js.

    It is told when a run is asked for and when one has ended: see wait.js.
    """
    return gr.HTML(
        value,
        html_template=f'<div class="player" role="group" data-name="{elem_id}" '
        f'aria-label="{html.escape(label)}"></div>',
        js_on_load=script("shared/player.js"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="player-host",
    )


def show_banner(sentence: str | None, elem_id: str = "banner") -> gr.HTML:
    """The place for a sentence that nobody may overlook."""
    return gr.HTML(
        banner(sentence),
        js_on_load=script("shared/banner.js"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="banner-host",
    )


def banner(sentence: str | None) -> str:
    """The sentence as HTML, read out by screen readers; `code` is set as code."""
    if not sentence:
        return ""
    text = html.escape(sentence[0].upper() + sentence[1:])
    text = re.sub("`(.*?)`", r"<code>\1</code>", text)
    return f'<div class="banner" role="alert">{text}</div>'


@contextmanager
def spoken_errors() -> Generator[None]:
    """What a person can put right is said in a warning and ends the event; the queue goes on."""
    try:
        yield
    except EcarError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error


def visitor(request: gr.Request) -> str:
    """Whose session an event belongs to."""
    return str(request.session_hash)
