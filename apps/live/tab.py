"""The Live tab: guidance, a mix of two classes, a walk between two seeds; the image follows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio.to_thread
import gradio as gr

from apps.live.runs import Newest, draft_steps, draw, first_wish, guidance_range, settings_of
from apps.shared.current import view_of
from apps.shared.parts import script
from apps.shared.recipes import Origin
from apps.shared.settings import MAX_SEED, Settings
from apps.shared.studio import Studio
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.viz.colours import STAGE_HUES

INTRODUCTION = (
    "Move a slider, and the image follows. Mix another class in from a stage on: the stages "
    "before it keep what they were, so you see what each decides. Or walk from the noise of one "
    "seed to that of another, in all stages at once or in each on its own."
)
FEW_STEPS = (
    "This checkpoint takes many steps for an image. It is liveliest on a few-step one: "
    "<code>ecar app --checkpoint cifar10-turbo</code>."
)
MOST_WAITING = 16  # wishes of all pages that wait at once; further ones are told to come again
BUSY = {"busy": True}


class Live:
    """Sliders, the image, and every stage's end before it.

    Attributes:
        turn: what a picture is made within, given the request; by default one at a time.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio, self.origin = studio, Origin.of(studio)
        self._newest, self._waiting = Newest(), 0
        lock = threading.Lock()
        self.turn: Callable[[Any], AbstractContextManager] = lambda request: lock
        model = studio.pipeline.model
        more = "" if model.few_step else f"<p>{FEW_STEPS}</p>"
        gr.HTML(f"<p>{INTRODUCTION}</p>{more}", elem_classes="introduction")
        self.place = gr.HTML(
            self.view(studio.defaults()),
            html_template='<div class="live" role="group" aria-label="Live"></div>',
            js_on_load=script("live/live.js"),
            apply_default_css=False,
            elem_id="live",
            server_functions=[self._server_function()],
        )
        vars(self.place)["take_turns"] = self._take_turns

    def view(self, settings: Settings) -> dict[str, Any]:
        """What the page needs to show sliders that stand for these settings."""
        model = self.studio.pipeline.model
        low, high = guidance_range(model)
        names = self.studio.class_names
        return {
            "classes": names,
            "stages": [
                {"side": side, "hue": STAGE_HUES[stage % len(STAGE_HUES)]}
                for stage, side in enumerate(model.schedule.resolutions)
            ],
            "guidance": [low, high],
            "largest_seed": MAX_SEED,
            "drafts": draft_steps(model, settings.steps) != tuple(self.studio.defaults().steps),
            "wish": first_wish(settings, names),
        }

    def wire(self, page: gr.Blocks) -> None:
        """The page asks by itself; there is nothing to connect."""

    @property
    def shown(self) -> list[Any]:
        """What :meth:`show` updates."""
        return [self.place]

    def show(self, settings: Settings) -> dict[Any, Any]:
        """Updates that put the sliders to these settings."""
        return {self.place: self.view(settings)}

    def _take_turns(self, turn: Callable[[Any], AbstractContextManager]) -> None:
        self.turn = turn

    def _server_function(self) -> Any:
        async def picture(asked: Any, request: gr.Request) -> dict[str, Any]:
            return await self.answer(asked, request)

        return picture

    async def answer(self, asked: Any, request: Any) -> dict[str, Any]:
        """The picture of a wish, ``{"page": ..., "number": ..., "wish": ...}``; or a sentence, or
        ``dropped``, because a newer wish has come, or ``busy``. A wish with ``follows`` lets the
        page's earlier ones end first."""
        if not isinstance(asked, dict):
            return {"sentence": "This wish cannot be read: load the page again."}
        page, number = str(asked.get("page"))[:40], asked.get("number")
        if not isinstance(number, int) or isinstance(number, bool):
            return {"sentence": "This wish has no number: load the page again."}
        if not asked.get("follows"):
            self._newest.note(page, number)
        if self._waiting >= MOST_WAITING:
            return BUSY
        self._waiting += 1
        try:
            return await anyio.to_thread.run_sync(
                self._make, asked.get("wish"), bool(asked.get("draft")), page, number, request
            )
        finally:
            self._waiting -= 1

    def _make(self, wish: Any, draft: bool, page: str, number: int, request: Any) -> dict[str, Any]:
        try:
            settings = settings_of(self.studio.pipeline.model, wish, draft)
            with self.turn(request), told_when_memory_is_full():
                self._newest.note(page, number)
                drawn = draw(self.studio, settings, lambda: self._newest.is_newest(page, number))
        except EcarError as error:
            sentence = str(error)
            return {"sentence": f"{sentence[:1].upper()}{sentence[1:]}."}
        if drawn is None:
            return {"dropped": True}
        return {**vars(drawn), "draft": draft, "run": view_of(settings, self.origin)}
