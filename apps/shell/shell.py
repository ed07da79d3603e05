"""Puts what stands around the tabs on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from apps.shared.parts import script
from apps.shared.studio import Studio
from apps.shell.strip import parts_of

HERE = Path(__file__).parent
TITLE = "E-CAR, stage by stage"


def add_head(studio: Studio | None) -> gr.Column:
    """The title; with a model, beside it what explains: glossary, mode for a talk, guided tour.

    Returns the place between them.
    """
    with gr.Row(elem_id="bar"):
        gr.HTML(f"<h1>{TITLE}</h1>", elem_id="head")
        place = gr.Column(elem_id="bar-place")
        if studio is not None:
            _piece("glossary", read("glossary.json"))
            _piece("present", {"notes": read("notes.json"), "parts": parts_of(studio)})
            _piece("tour", read("tour.json"))
    return place


def add_strip(studio: Studio) -> None:
    """The whole process in one line that stays in view. What runs says where it is (``ecar:at``); a
    part that is pressed says what it does, with which tensors and at what cost."""
    _piece("strip", parts_of(studio), elem_id="pipeline")


def read(name: str) -> Any:
    """A JSON file of this folder."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def _piece(name: str, value: Any, elem_id: str | None = None) -> None:
    gr.HTML(
        value,
        html_template=f'<div class="{name}"></div>',
        js_on_load=script(f"shell/{name}.js"),
        apply_default_css=False,
        elem_id=elem_id or name,
    )
