"""The Generate tab: one image comes into being, live, and can be walked through afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from apps.shared.parts import (
    PRIVATE,
    QUEUE,
    RunControls,
    banner,
    let_stop,
    player,
    run_buttons,
    show_banner,
    tell,
    visitor,
)
from apps.shared.stream import Progress, blank_view, total
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError

PLAYER = "generate-player"
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
            with gr.Column(scale=4, min_width=300):
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
        made = self.go.click(
            self.run,
            self.controls.inputs,
            shown,
            js=tell("wait", PLAYER),
            cancels=[opened],
            **PRIVATE,
            **QUEUE,
        )
        let_stop(made, self.go, self.stop, PLAYER)
        # After a sentence in place of an image, too, the player waits no longer.
        made.then(None, js=tell("stop", PLAYER), **PRIVATE)

    def open(self) -> dict:
        """What a visitor sees before the first click: an image that the model made at the start."""
        progress = self.studio.opening()
        if self.studio.problem:
            return {self.banner: banner(self.studio.problem)}
        return self._update(progress) if progress else {self.banner: ""}

    def run(self, request: gr.Request, *values: Any) -> Iterator[dict]:
        """One click on Generate."""
        yield {self.banner: "", **run_buttons(self.go, self.stop, running=True)}
        try:
            settings = self.controls.settings(*values)
            first: dict[Any, Any] = {self.controls.seed: settings.seed}
            for progress in self.studio.run(settings, visitor(request)):
                yield {**first, **self._update(progress)}
                first = {}
        except EcarError as error:
            gr.Warning(str(error))
            yield {self.banner: banner(str(error))}
        yield run_buttons(self.go, self.stop)

    def _update(self, progress: Progress) -> dict:
        update: dict[Any, Any] = {self.player: progress.view, self.costs: cost_table(progress)}
        if progress.image:
            text = f"Generated image: {progress.settings}"
            update[self.picture] = gr.Image(str(progress.image), alt_text=text)
        return update


def cost_table(progress: Progress) -> str:
    """Time, operations and memory of each stage so far, and of all of them, with a bar each."""
    whole = total(progress.costs)
    seconds = whole.transformer + whole.head + whole.decode
    names = [f"{number}: {cost.side}×{cost.side}" for number, cost in enumerate(progress.costs, 1)]
    body = ""
    for name, cost in zip([*names, "All"], [*progress.costs, whole], strict=True):
        cells = (
            _ms(cost.transformer),
            _ms(cost.head),
            _ms(cost.decode),
            f"{(cost.transformer_flops + cost.head_flops) / 1e9:.2f}",
            f"{cost.tokens}",
            f"{cost.cache_bytes / 1024:.0f}",
        )
        body += f"<tr><th scope='row'>{name}</th>"
        body += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    columns = ("Stage", "Trans­former", "Flow head", "Decode", "GFLOP", "Tokens", "KV cache")
    units = ("", "ms", "ms", "ms", "", "", "KiB")
    head = "".join(
        f"<th scope='col'>{name}{f'<small>{unit}</small>' if unit else ''}</th>"
        for name, unit in zip(columns, units, strict=True)
    )
    bars = "".join(
        f"<span class='{part}' style='flex-grow:{share:.4f}' title='{title}: {_ms(share)} ms'>"
        "</span>"
        for part, title, share in (
            ("transformer", "Transformer", whole.transformer),
            ("head", "Flow head", whole.head),
            ("decode", "Decode", whole.decode),
        )
    )
    shares = (
        f"Of {_ms(seconds)} ms: transformer {_share(whole.transformer, seconds)}, "
        f"flow head {_share(whole.head, seconds)}, decoder {_share(whole.decode, seconds)}."
    )
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='What each stage costs'>"
        "<table><caption>What each stage costs</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<div class='bar' aria-hidden='true'>{bars}</div>"
        f"<p>{shares} Watching (previews and files) took another {_ms(progress.watching)} ms.</p>"
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds else "–"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"
