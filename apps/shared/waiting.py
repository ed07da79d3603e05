"""Runs that a page asks for: buttons that rest meanwhile, a stop, and one sentence if it cannot be.

The page itself knows what runs, see wait.js. A run is stopped by a word to the generator that makes
it, not by Gradio's ``cancels``, which forgets an event before it has ended.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from apps.shared.parts import LATEST, PRIVATE, QUEUE, banner
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError

# What runs and can be stopped: of a stop button and a session.
_running: dict[tuple[int, str | None], set[threading.Event]] = {}
_lock = threading.Lock()


def tell(event: str, elem_id: str, *interactive: bool) -> str:
    """JavaScript of an event listener that tells a piece of the page first; see wait.js.

    It passes its inputs on; or, for ``interactive``, updates of as many buttons.
    """
    told = f"window.ecarTell({json.dumps(event)}, {json.dumps(elem_id)})"
    if not interactive:
        return f"(...inputs) => {{ {told}; return inputs; }}"
    updates = [{"__type__": "update", "interactive": free} for free in interactive]
    return f"() => {{ {told}; return {json.dumps(updates)}; }}"


def press(
    go: gr.Button,
    act: Callable,
    inputs: Any,
    outputs: Any,
    elem_id: str,
    busy: Sequence[gr.Button] = (),
    **more: Any,
) -> Any:
    """Lets a click on ``go`` run ``act``, shown by the piece ``elem_id``.

    ``go`` and all others of ``busy`` rest from the click until the run has ended.
    """
    go.elem_classes = [*(go.elem_classes or []), f"ecar-run--{elem_id}"]
    buttons = list(dict.fromkeys([go, *busy]))
    rest, rise = ([free] * len(buttons) for free in (False, True))
    go.click(None, None, buttons, js=tell("rest", elem_id, *rest), **PRIVATE)
    made = go.click(act, inputs, outputs, **PRIVATE, **QUEUE, **more)
    made.success(None, None, buttons, js=tell("done", elem_id, *rise), **PRIVATE)
    made.failure(None, None, buttons, js=tell("broken", elem_id, *rise), **PRIVATE)
    return made


def follow(moved: Any, act: Callable, inputs: Any, outputs: Any, elem_id: str) -> Any:
    """Lets a control that is moved run ``act``; of several moves the last counts."""
    waits = tell("wait", elem_id)
    made = moved(act, inputs, outputs, js=waits, **LATEST, **PRIVATE, **QUEUE)
    made.then(None, js=tell("settled", elem_id), **PRIVATE)
    return made


def let_stop(stop: gr.Button, elem_id: str) -> None:
    """Lets ``stop`` end what runs for the piece ``elem_id``: see :func:`in_sentences`."""
    stop.elem_classes = [*(stop.elem_classes or []), f"ecar-stop--{elem_id}"]

    def end(request: gr.Request) -> dict[str, Any]:
        with _lock:
            for wanted in _running.get((stop._id, request.session_hash), ()):
                wanted.set()
        return gr.update(interactive=False)

    stop.click(end, None, stop, queue=False, **PRIVATE)


def in_sentences(act: Callable[..., Iterator[dict]]) -> Callable[..., Iterator[dict]]:
    """For an event of a tab: what a person can put right comes as one sentence in its ``banner``.
    Where the tab has a ``stop`` the event ends at its next word after that was pressed.

    A component's update is said again with every later one: Gradio's page changes an update in
    place to make the next from it, so that of those that arrive at once only the last is left, and
    a component that this does not name keeps what it had. (Texts and numbers are not changed in
    place. They are said once, for a field may have been changed meanwhile.)
    """

    @functools.wraps(act)
    def run(self: Any, *given: Any, **named: Any) -> Iterator[dict]:
        stop = getattr(self, "stop", None)
        offered: dict[Any, Any] = {self.banner: ""}
        said: dict[Any, Any] = {}
        last: dict[Any, Any] = {}
        if stop:
            said[stop], last[stop] = gr.update(interactive=True), gr.update(interactive=False)
        with running(stop) as stopped:
            yield {**said, **offered}
            try:
                with told_when_memory_is_full(), closing(act(self, *given, **named)) as updates:  # ty: ignore[invalid-argument-type]
                    for update in updates:
                        if stopped.is_set():
                            break
                        said |= {part: one for part, one in update.items() if not _is_plain(one)}
                        yield {**said, **update}
            except EcarError as error:
                last[self.banner] = banner(str(error))
            if last:
                yield {**said, **last}

    return run


def _is_plain(update: Any) -> bool:
    """Whether an update is a text, a number or nothing."""
    return update is None or isinstance(update, str | int | float)


@contextmanager
def running(stop: gr.Button | None) -> Generator[threading.Event]:
    """Notes that an event runs; what it gives is set when the visitor presses ``stop``."""
    stopped, session = (
        threading.Event(),
        getattr(LocalContext.request.get(None), "session_hash", None),
    )
    key = (stop._id if stop else -1, session)
    with _lock:
        _running.setdefault(key, set()).add(stopped)
    try:
        yield stopped
    finally:
        with _lock:
            _running[key].discard(stopped)
            if not _running[key]:
                del _running[key]
