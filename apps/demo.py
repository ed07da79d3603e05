"""The demo: watch one image come into being, stage by stage.

``launch("cifar10")`` serves it on this machine. A page on ``ecar_lab.trace`` and nothing more: what
is computed, is computed there.
"""

import dataclasses
import html
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps.stream import MAX_SEED, Progress, Settings, blank_view, total
from apps.studio import Studio
from ecar_lab.errors import EcarError

HERE = Path(__file__).parent
DEFAULT_PORT = 7860
MAX_STEPS, MAX_GUIDANCE = 32, 8.0
# One image at a time, whoever asks for it, page or program.
QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
# The strip answers a click at once, before the server does.
TELL_STRIP = "(...inputs) => { document.dispatchEvent(new Event('ecar:%s')); return inputs; }"
NO_CHECKPOINT = (
    "Start the demo again on another one, `ecar app --checkpoint NAME_OR_FOLDER`, or train one: "
    "`ecar train tokenizer`, then `ecar train model`."
)
TITLE = "E-CAR, stage by stage"
INTRODUCTION = (
    "Each stage asks the transformer once for a token map; then a small flow model carries the "
    "latent part of the way from noise to image. The next stage starts from there: twice the size, "
    "with a little new noise."
)


def build(
    checkpoint: str | Path = "cifar10", device: str = "auto", dtype: str = "auto"
) -> gr.Blocks:
    """The page for one checkpoint; without a usable one, a page that says what to do.

    Use :func:`launch` to serve it: looks, limits and privacy are settings of the server.

    Raises:
        EcarError: an unknown device or dtype.
    """
    studio = Studio(checkpoint, device, dtype)
    gr.set_static_paths([studio.folders.root])
    with gr.Blocks(analytics_enabled=False, title=TITLE) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{INTRODUCTION}</p>", elem_id="head")
        if studio.problem is None:
            Page(studio).wire(page)
            studio.open_in_background()
        else:
            show_banner(f"{studio.problem}. {NO_CHECKPOINT}")
    page.queue(max_size=16)
    return page


def launch(
    checkpoint: str | Path = "cifar10",
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    *,
    block: bool = True,
) -> tuple[gr.Blocks, str]:
    """Serves the page and returns it with its address, by default once it has been stopped.

    Args:
        host: this machine only, unless you say otherwise.
        port: None means ``$GRADIO_SERVER_PORT``, else 7860.
        block: False returns at once, with the server running.

    Raises:
        EcarError: a port that is no number or is taken, an unknown device or dtype.
    """
    port = port_of_environment() if port is None else port
    page = build(checkpoint, device, dtype)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=not block,
            share=False,
            run_history=False,
            footer_links=["api", "settings"],
            theme=theme(),
            css_paths=[HERE / "demo.css"],
        )
    except OSError as error:
        if "port" not in str(error):
            raise
        raise EcarError(
            f"port {port} of {host} cannot be used: give another with --port or GRADIO_SERVER_PORT"
        ) from error
    return page, address


def port_of_environment() -> int:
    """``$GRADIO_SERVER_PORT``, else 7860.

    Raises:
        EcarError: the variable holds no port.
    """
    named = os.environ.get("GRADIO_SERVER_PORT") or str(DEFAULT_PORT)
    if not named.isdecimal() or not 0 < int(named) < 65536:
        raise EcarError(f"GRADIO_SERVER_PORT is {named!r}: give a port, e.g. {DEFAULT_PORT}")
    return int(named)


def theme() -> gr.themes.Base:
    """Fonts that every system has, so that nothing is fetched; small print that can be read."""
    quiet, quiet_dark = "*neutral_600", "*neutral_300"
    return gr.themes.Default(
        font=["system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
        primary_hue="blue",
    ).set(
        body_text_color_subdued=quiet,
        body_text_color_subdued_dark=quiet_dark,
        block_info_text_color=quiet,
        block_info_text_color_dark=quiet_dark,
        block_label_text_color=quiet,
        block_label_text_color_dark=quiet_dark,
    )


class Page:
    """The controls and pictures of the page, and what happens between them."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.banner = show_banner(None)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="controls"):
                self._add_controls(studio.defaults())
            with gr.Column(scale=6, min_width=330):
                self.strip = gr.HTML(
                    blank_view(studio.pipeline, studio.defaults(), studio.folders.root),
                    html_template='<div class="strip" role="group" aria-label="Stages"></div>',
                    js_on_load=(HERE / "strip.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                    elem_id="strip",
                )
            with gr.Column(scale=4, min_width=300):
                self.picture = gr.Image(
                    label="Image",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    alt_text="No image yet",
                    elem_id="picture",
                )
                self.times = gr.HTML("", apply_default_css=False, elem_id="times")

    def _add_controls(self, defaults: Settings) -> None:
        self.class_name = gr.Dropdown(
            self.studio.class_names, value=defaults.class_name, label="Class"
        )
        with gr.Row(elem_id="seed-row", equal_height=True):
            self.seed = gr.Number(
                defaults.seed, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", min_width=110
            )
            self.dice = gr.Button("\N{DIE FACE-5} New seed", min_width=110, elem_id="dice")
        self.steps = [
            gr.Slider(
                1,
                max(MAX_STEPS, count),
                count,
                step=1,
                label=f"Steps, stage {stage}",
            )
            for stage, count in enumerate(defaults.steps, 1)
        ]
        self.guidance = gr.Slider(
            1.0,
            max(MAX_GUIDANCE, defaults.guidance),
            defaults.guidance,
            step=0.1,
            label="Guidance",
            info="How much the class counts. 1 is none, and half the work.",
        )
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", min_width=130, elem_id="generate")
            self.stop = gr.Button(
                "Stop", variant="stop", interactive=False, min_width=90, elem_id="stop"
            )

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do, and names the program interface."""
        shown = [self.strip, self.picture, self.times, self.seed, self.banner, self.go, self.stop]
        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        opened = page.load(self.open, None, shown, concurrency_limit=None, **private)
        inputs = [self.class_name, self.seed, self.guidance, *self.steps]
        made = self.go.click(
            self.run, inputs, shown, js=TELL_STRIP % "wait", cancels=[opened], **private, **QUEUE
        )
        ready: dict[str, Any] = {"outputs": [self.go, self.stop], "js": TELL_STRIP % "stop"}
        self.stop.click(self._buttons, cancels=[made], queue=False, **ready, **private)
        made.failure(self._buttons, queue=False, **ready, **private)
        self.dice.click(
            None, outputs=[self.seed], js=f"() => Math.floor(Math.random() * {MAX_SEED})"
        )
        page.unload(self.leave)
        gr.api(self.generate, api_name="generate", **QUEUE)

    def open(self) -> dict:
        """What a visitor sees before the first click: an image that the model made at the start."""
        progress = self.studio.opening()
        if self.studio.problem:
            return {self.banner: banner(self.studio.problem)}
        return self._update(progress) if progress else {self.banner: ""}

    def run(
        self,
        request: gr.Request,
        class_name: str,
        seed: float | None,
        guidance: float,
        *steps: float,
    ) -> Iterator[dict]:
        """One click on Generate."""
        seed = secrets.randbelow(MAX_SEED) if seed is None else int(seed)
        settings = Settings(class_name, seed, tuple(map(int, steps)), float(guidance))
        yield {self.banner: "", self.seed: seed, **self._buttons(running=True)}
        try:
            for progress in self.studio.run(settings, str(request.session_hash)):
                yield self._update(progress)
        except EcarError as error:
            gr.Warning(html.escape(str(error)))
            yield {self.banner: banner(str(error))}
        yield self._buttons()

    def generate(
        self,
        request: gr.Request,
        class_name: str,
        seed: int = 0,
        steps: list[int] | None = None,
        guidance: float | None = None,
    ) -> tuple[dict, dict]:
        """Generates one image: a class by name or id, flow steps per stage, guidance.

        Steps and guidance left out are the model's own. Returns the image as a PNG file, and a
        record: the settings, and what each stage took in milliseconds.
        """
        try:
            model = self.studio.pipeline.model
            settings = Settings(
                class_name,
                seed,
                tuple(model.inference_steps(steps)),
                max(model.guidance(guidance)),
            )
            views = list(self.studio.run(settings, str(request.session_hash)))
        except EcarError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if not views or views[-1].image is None:
            raise gr.Error("the session closed before the image was done", print_exception=False)
        return gr.FileData(path=str(views[-1].image)).model_dump(), record(views[-1])

    def leave(self, request: gr.Request) -> None:
        """A visitor has gone: nothing of theirs stays."""
        self.studio.folders.forget(str(request.session_hash))

    def _buttons(self, running: bool = False) -> dict:
        return {
            self.go: gr.update(interactive=not running),
            self.stop: gr.update(interactive=running),
        }

    def _update(self, progress: Progress) -> dict:
        update: dict[Any, Any] = {self.strip: progress.view, self.times: times_table(progress)}
        if progress.image:
            text = f"Generated image: {progress.settings}"
            update[self.picture] = gr.Image(str(progress.image), alt_text=text)
        return update


def show_banner(sentence: str | None) -> gr.HTML:
    """The place for a sentence that nobody may overlook."""
    return gr.HTML(banner(sentence), apply_default_css=False, elem_id="banner")


def banner(sentence: str | None) -> str:
    """The sentence as HTML, read out by screen readers; `code` is set as code."""
    if not sentence:
        return ""
    text = html.escape(sentence[0].upper() + sentence[1:])
    text = re.sub("`(.*?)`", r"<code>\1</code>", text)
    return f'<div class="banner" role="alert">{text}</div>'


def times_table(progress: Progress) -> str:
    """Milliseconds of each stage so far, and of all of them."""
    names = [
        f"{number}: {stage.side}×{stage.side}" for number, stage in enumerate(progress.times, 1)
    ]
    rows = [*progress.times, total(progress.times)]
    body = "".join(
        f"<tr><th scope='row'>{name}</th>"
        f"<td>{_ms(row.transformer)}</td><td>{_ms(row.head)}</td><td>{_ms(row.decode)}</td></tr>"
        for name, row in zip([*names, "All"], rows, strict=True)
    )
    columns = ("Stage", "Transformer", "Flow head", "Decode")
    head = "".join(f"<th scope='col'>{name}</th>" for name in columns)
    return (
        "<table><caption>Time per stage, in milliseconds</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<p>Watching (previews and files) took another {_ms(progress.watching)} ms.</p>"
    )


def record(progress: Progress) -> dict[str, Any]:
    """Settings and times of a run as JSON; with the checkpoint it reproduces the image."""
    return {
        **dataclasses.asdict(progress.settings),
        "stages": [
            {
                "latent_size": stage.side,
                "tokens": stage.tokens,
                "transformer_ms": round(1000 * stage.transformer, 2),
                "flow_head_ms": round(1000 * stage.head, 2),
                "decode_ms": round(1000 * stage.decode, 2),
            }
            for stage in progress.times
        ],
    }


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds else "–"
