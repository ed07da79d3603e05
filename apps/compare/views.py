"""What the Compare tab says at the end: what both took, side by side, as HTML."""

from __future__ import annotations

from collections.abc import Callable

from apps.compare.runs import UNTRAINED, Lane, Moment
from ecar_lab.schedule import plan_text

NOT_RECORDED = "not recorded"


def result_table(moment: Moment) -> str:
    """What both cost, side by side."""
    body = ""
    for name, *cells in rows(moment.lanes):
        body += f"<tr><th scope='row'>{name}</th>"
        body += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    heads = ("", "E-CAR", "DiT", "Ratio")
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    dit = moment.lanes[1].contender
    notes = "Seconds are the model's own, after one step of warming up; other programs slow them. "
    notes += "The decoder is left out of GFLOP and axis. "
    if not dit.trained:
        notes += "The DiT has random weights: only its cost means anything. "
    watching = 1000 * sum(lane.watching for lane in moment.lanes)
    notes += f"Watching (previews and files) took another {watching:.0f} ms."
    return (
        "<table><caption>What each took for one image; ratio: DiT ÷ E-CAR</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p>"
    )


def rows(lanes: tuple[Lane, ...]) -> list[tuple[str, str, str, str]]:
    """The table: what, E-CAR, DiT, and how many times E-CAR's the DiT's is."""
    measures: list[tuple[str, Callable[[Lane], str], Callable[[Lane], float | None]]] = [
        (
            "Parameters",
            lambda lane: f"{lane.contender.parameters:,}",
            lambda lane: lane.contender.parameters,
        ),
        ("Training images", _images, lambda lane: lane.contender.images),
        ("Steps", lambda lane: plan_text(lane.steps), lambda lane: sum(lane.steps)),
        ("Guidance", _guidance, lambda lane: None),
        ("GFLOP", lambda lane: f"{lane.flops / 1e9:.3g}", lambda lane: lane.flops),
        ("Seconds", lambda lane: f"{lane.seconds:.3f}", lambda lane: lane.seconds),
        ("Decoder, seconds", lambda lane: f"{lane.decoder:.4f}", lambda lane: lane.decoder),
    ]
    ecar, dit = lanes
    return [
        (name, words(ecar), words(dit), _ratio(number(ecar), number(dit)))
        for name, words, number in measures
    ]


def _ratio(ecar: float | None, dit: float | None) -> str:
    return f"{dit / ecar:.2f}×" if ecar and dit else ""


def _images(lane: Lane) -> str:
    if not lane.contender.trained:
        return f"none ({UNTRAINED})"
    images = lane.contender.images
    return NOT_RECORDED if images is None else f"{images:,}"


def _guidance(lane: Lane) -> str:
    scales = lane.guidance if len(set(lane.guidance)) > 1 else lane.guidance[:1]
    return " / ".join(f"{scale:g}" for scale in scales)
