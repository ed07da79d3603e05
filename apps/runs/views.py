"""What the Runs tab says, as HTML: the history's entries, a run, what sets two apart."""

from __future__ import annotations

import html
from typing import Any

from apps.runs.differences import differing_settings, distance_in_words
from apps.shared.studio import Run

PINS = ("A", "B")
NOTHING_CHOSEN = "<p>No run is chosen.</p>"


def entry(run: Run) -> dict[str, Any]:
    """A run in the history, for the page."""
    title, _, details = str(run.settings).partition(", steps ")
    file = run.image.as_posix()
    return {"number": run.number, "title": title, "details": f"steps {details}", "file": file}


def details(run: Run) -> str:
    """A run's settings and what it took, as HTML."""
    seconds = sum(cost.transformer + cost.head + cost.decode for cost in run.progress.costs)
    text = html.escape(str(run.settings))
    return f"<p><strong>Run {run.number}</strong>: {text}. Computed in {1000 * seconds:.0f} ms.</p>"


def difference(a: Run | None, b: Run | None) -> str:
    """What sets two runs apart, as HTML: in settings, then in pixels."""
    if a is None or b is None:
        missing = " and ".join(pin for pin, run in zip(PINS, (a, b), strict=True) if run is None)
        return f"<p>Choose a run above and pin it as {missing} to compare.</p>"
    rows = differing_settings(a.settings, b.settings)
    apart = html.escape(distance_in_words(a.image, b.image))
    if not rows:
        return f"<p>The settings are the same. {apart}</p>"
    body = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th>"
        f"<td>{html.escape(first)}</td><td>{html.escape(second)}</td></tr>"
        for name, first, second in rows
    )
    return (
        "<table><caption>What differs, everything else is the same</caption><thead><tr>"
        "<th scope='col'>Setting</th><th scope='col'>A</th><th scope='col'>B</th></tr></thead>"
        f"<tbody>{body}</tbody></table><p>{apart}</p>"
    )


def say(sentence: str, kind: str = "plain") -> str:
    """The line that tells, aloud too, what has just happened."""
    sign = {"same": "✓ ", "other": "≠ "}.get(kind, "")
    return f'<p class="{kind}" role="status" aria-live="polite">{sign}{html.escape(sentence)}</p>'
