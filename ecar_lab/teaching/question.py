"""Questions that answer back."""

from __future__ import annotations

import html
from collections.abc import Mapping

import ipywidgets as widgets
from IPython.display import Markdown, display

from ecar_lab.errors import EcarError
from ecar_lab.teaching.session import is_static

# Backgrounds of white words, so that they can be read on a light page and on a dark one.
GOOD, BAD, NEUTRAL = "#00734D", "#A34700", "#59626E"


def badge(words: str, colour: str) -> str:
    """Words on a coloured ground, as HTML."""
    look = f"background:{colour};color:white;padding:1px 7px;border-radius:4px"
    return f'<b style="{look}">{html.escape(words)}</b>'


def quiz(question: str, options: Mapping[str, str], right: str) -> widgets.VBox | None:
    """A question with its options; choosing one says why it is right or wrong.

    Without controls (``ECAR_LAB_STATIC=1``, GitHub) the options and the folded answer are shown.

    Args:
        options: what can be chosen -> what to say about it.
        right: the right one among them.

    Raises:
        EcarError: ``right`` is not among the options.
    """
    if right not in options:
        raise EcarError(f"the right answer {right!r} is not among the options")
    listed = "\n".join(f"- {option}" for option in options)
    answers = "\n".join(
        f"<li>{'✔' if option == right else '✘'} <b>{html.escape(option)}</b>: {reason}</li>"
        for option, reason in options.items()
    )
    folded = f"<details><summary>Answer</summary><ul>{answers}</ul></details>"
    if is_static():
        display(Markdown(f"**{question}**\n\n{listed}\n\n{folded}"))
        return None
    display(Markdown(f"**{question}**"))
    choice = widgets.RadioButtons(
        options=list(options), value=None, layout=widgets.Layout(width="auto")
    )
    reply = widgets.HTML()

    def answer(change: dict) -> None:
        reply.value = verdict(change["new"], options, right)

    choice.observe(answer, names="value")
    return widgets.VBox([choice, reply])


def verdict(chosen: str | None, options: Mapping[str, str], right: str) -> str:
    """What is said about a choice, as HTML."""
    if chosen is None:
        return ""
    colour, word = (GOOD, "✔ Right.") if chosen == right else (BAD, "✘ Not quite.")
    return f"{badge(word, colour)} {options[chosen]}"
