"""The Runs tab: a visitor's finished runs, two of them side by side, recipes in, files out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from apps.runs.exports import EXPORTS, export
from apps.runs.views import NOTHING_CHOSEN, PINS, details, difference, entry, say
from apps.shared.parts import LATEST, PRIVATE, QUEUE, banner, script, show_banner, visitor
from apps.shared.recipes import Origin, Recipe, finished, replay
from apps.shared.studio import Run, Studio
from ecar_lab.errors import EcarError

INTRODUCTION = (
    "What you have made in this session, newest first. Choose a run to take it away as a file, pin "
    "two to see what sets them apart, or load a recipe: it alone brings its image back."
)


@dataclass(frozen=True)
class Choice:
    """Numbers of the runs that are chosen and pinned; None: none."""

    chosen: int | None = None
    a: int | None = None
    b: int | None = None

    @classmethod
    def of(cls, view: Any) -> Choice:
        """What the page last showed."""
        values = view if isinstance(view, dict) else {}
        return cls(*(values.get(name) for name in ("chosen", "a", "b")))


class Runs:
    """History, the chosen run with its files, the pinned pair."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.origin = studio, Origin.of(studio)
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
        self.banner = show_banner(None, "runs-banner")
        self.history = gr.HTML(
            {"runs": [], "chosen": None, "a": None, "b": None},
            html_template='<div class="history" role="radiogroup" aria-label="My runs"></div>',
            js_on_load=script("runs/runs.js"),
            apply_default_css=False,
            elem_id="runs-history",
        )
        with gr.Row():
            self.again = gr.Button(
                "Refresh", size="md", scale=0, min_width=110, elem_id="runs-refresh"
            )
            self.load = gr.UploadButton(
                "Load a recipe",
                file_types=[".json"],
                size="md",
                scale=0,
                min_width=170,
                elem_id="runs-load",
            )
        self.status = gr.HTML(
            say(""), apply_default_css=False, elem_id="runs-status", elem_classes="runs-words"
        )
        gr.HTML("<h2>The chosen run</h2>", elem_classes="runs-words")
        self._add_chosen()
        gr.HTML("<h2>A beside B</h2>", elem_classes="runs-words")
        with gr.Row(elem_id="runs-pair"):
            self.pictures = [picture(f"Run {pin}", pin) for pin in PINS]
        self.difference = gr.HTML(
            "", apply_default_css=False, elem_id="runs-difference", elem_classes="runs-words"
        )

    def _add_chosen(self) -> None:
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=2, min_width=200):
                self.picture = picture("Run", "chosen")
            with gr.Column(scale=5, min_width=300):
                self.details = gr.HTML(
                    NOTHING_CHOSEN,
                    apply_default_css=False,
                    elem_id="runs-details",
                    elem_classes="runs-words",
                )
                with gr.Row():
                    self.pins = [
                        gr.Button(
                            f"Pin as {pin}",
                            size="md",
                            min_width=120,
                            interactive=False,
                            elem_id=f"runs-pin-{pin.lower()}",
                        )
                        for pin in PINS
                    ]
                with gr.Row():
                    self.makers = {
                        kind: gr.Button(
                            wanted.label,
                            size="md",
                            min_width=140,
                            interactive=False,
                            elem_id=f"runs-make-{kind}",
                        )
                        for kind, wanted in EXPORTS.items()
                    }
                self.file = gr.DownloadButton(
                    "Download", variant="primary", visible=False, elem_id="runs-file"
                )

    def wire(self, page: gr.Blocks) -> None:
        """Connects clicks to what they do. The history is looked up whenever the tab is opened."""
        shown: list[Any] = [
            self.history,
            self.picture,
            self.details,
            *self.pins,
            *self.makers.values(),
        ]
        shown += [*self.pictures, self.difference, self.file, self.status, self.banner]
        quick: dict[str, Any] = {"outputs": shown, "queue": False, **PRIVATE}
        self.again.click(self.refresh, self.history, **quick)
        if (tab := enclosing_tab(self.history)) is not None:
            tab.select(self.refresh, self.history, **quick)
        self.history.select(self.choose, self.history, **LATEST, **quick)
        for pin, button in zip(PINS, self.pins, strict=True):
            button.click(self._pinner(pin.lower()), self.history, **quick)
        self.made = self.load.upload(
            self.replay, [self.load, self.history], shown, **PRIVATE, **QUEUE
        )
        for kind, button in self.makers.items():
            queue = QUEUE if EXPORTS[kind].needs_model else {}
            files = [self.file, self.status, self.banner]
            button.click(self._exporter(kind), self.history, files, **PRIVATE, **queue)

    # -- events ------------------------------------------------------------------------------------

    def refresh(self, request: gr.Request, view: dict) -> dict:
        """The tab as it should look now."""
        return self._show(visitor(request), Choice.of(view))

    def choose(self, request: gr.Request, view: dict, event: gr.EventData) -> dict:
        """Another run has been chosen."""
        choice = replace(Choice.of(view), chosen=event._data.get("number"))
        return self._show(visitor(request), choice)

    def _pinner(self, pin: str) -> Callable:
        def pinned(request: gr.Request, view: dict) -> dict:
            choice = Choice.of(view)
            return self._show(visitor(request), replace(choice, **{pin: choice.chosen}))

        return pinned

    def replay(self, request: gr.Request, file: str, view: dict) -> Iterator[dict]:
        """Checks a recipe, runs it, and says whether the image is the same."""
        owner, choice = visitor(request), Choice.of(view)
        try:
            recipe = Recipe.read(file)
            doubts = recipe.check(self.studio, self.origin)
            warning = f"{doubts[0]}, so the image may be another one" if doubts else None
            yield {self.banner: banner(warning), self.status: say("The recipe is being run …")}
            progress = finished(replay(self.studio, recipe, owner))
            if progress is None:
                return  # the visitor has gone
            assert progress.image is not None
            same, verdict = recipe.verdict(progress.image, doubts)
        except EcarError as error:
            yield {self.banner: banner(str(error)), self.status: say("")}
            return
        newest = self.studio.folders.runs(owner)[-1].number
        update = self._show(owner, replace(choice, chosen=newest))
        update[self.status] = say(verdict, "same" if same else "other")
        update[self.banner] = banner(warning)
        yield update

    def _exporter(self, kind: str) -> Callable:
        def exported(request: gr.Request, view: dict) -> Iterator[dict]:
            yield {
                self.file: gr.DownloadButton(visible=False),
                self.status: say("The file is being made …"),
                self.banner: "",
            }
            try:
                run = self._runs(visitor(request)).get(Choice.of(view).chosen)
                if run is None:
                    raise EcarError("the chosen run is gone: choose another one")
                path = export(self.studio, self.origin, run, kind)
            except EcarError as error:
                yield {
                    self.file: gr.DownloadButton(visible=False),
                    self.status: say(""),
                    self.banner: banner(str(error)),
                }
                return
            size = path.stat().st_size / 1024
            button = f"Download {path.name} ({size:,.0f} KiB)"
            yield {
                self.file: gr.DownloadButton(button, value=str(path), visible=True),
                self.status: say(f"Ready to download: {path.name}."),
            }

        return exported

    # -- what the tab shows ------------------------------------------------------------------------

    def _runs(self, owner: str) -> dict[int | None, Run]:
        return {run.number: run for run in self.studio.folders.runs(owner)}

    def _show(self, owner: str, choice: Choice) -> dict:
        """Everything on the tab, for a choice; what is chosen but gone no longer is."""
        runs = self._runs(owner)
        chosen, a, b = (runs.get(number) for number in (choice.chosen, choice.a, choice.b))
        seen = [run.folder for run in (chosen, a, b) if run is not None]
        self.studio.folders.show(owner, "runs", seen)
        view = {
            "runs": [entry(run) for run in reversed(runs.values())],
            **{name: run and run.number for name, run in (("chosen", chosen), ("a", a), ("b", b))},
        }
        update: dict[Any, Any] = {
            self.history: view,
            self.picture: shown_picture(chosen, "Run"),
            self.details: details(chosen) if chosen else NOTHING_CHOSEN,
            self.difference: difference(a, b),
            self.status: say(""),
            self.banner: "",
            # A file belongs to the run that was chosen when it was made.
            self.file: gr.DownloadButton(visible=False),
        }
        for pin, place, run in zip(PINS, self.pictures, (a, b), strict=True):
            update[place] = shown_picture(run, f"Run {pin}")
        for button in (*self.pins, *self.makers.values()):
            update[button] = gr.Button(interactive=chosen is not None)
        return update


def enclosing_tab(block: Any) -> gr.Tab | None:
    """The tab that a component lies in, if it does."""
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    return block


def picture(label: str, name: str) -> gr.Image:
    """A place for an image, empty."""
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        alt_text=f"{label}: none yet",
        min_width=140,
        elem_id=f"runs-picture-{name.lower()}",
        elem_classes="pixels",
    )


def shown_picture(run: Run | None, label: str) -> gr.Image:
    """The update that shows a run's image, or none."""
    if run is None:
        return gr.Image(None, label=label, alt_text=f"{label}: none yet")
    words = f"{label}, number {run.number}: {run.settings}"
    return gr.Image(str(run.image), label=f"{label}: {run.number}", alt_text=words)
