"""The choice of the checkpoint, at the top of every page: each has a page of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from apps.shared.parts import PRIVATE, RunControls, script
from apps.shared.shelf import Entry, label_of, shelf
from apps.shared.studio import Studio

# Pages besides the first: each takes about a second of the server's start.
MOST_PAGES = 6
ELSEWHERE = "{}; to open it start the app on it, ecar app --checkpoint {}"
# Class and seed of the page before, where this model knows them.
TAKE_OVER = """() => {
  const asked = new URLSearchParams(location.search), update = { __type__: "update" };
  const [name, seed] = [asked.get("class"), asked.get("seed") ?? ""];
  return [
    NAMES.includes(name) ? { ...update, value: name } : update,
    /^[0-9]{1,10}$/.test(seed) ? { ...update, value: Number(seed) } : update,
  ];
}"""


@dataclass
class Pages:
    """The pages of a server: the studio of each, by its place in the address ("" is the first)."""

    first: Studio
    others: dict[str, tuple[Entry, Studio]] = field(default_factory=dict)

    @classmethod
    def of(cls, first: Studio) -> Pages:
        """Pages of the checkpoints that are found besides the one that was asked for: of what
        ships, then of one's own trainings, the newest first."""
        pages = cls(first)
        known = None if first.problem else first.checkpoint.resolve()
        for entry in sorted(shelf(), key=lambda one: one.age):
            if entry.folder.resolve() != known and len(pages.others) < MOST_PAGES:
                studio = Studio(
                    entry.folder, first.device.type, first.dtype_name, first.models, first.folders
                )
                pages.others[entry.path] = entry, studio
        return pages

    def named(self, name: str | None) -> Studio | None:
        """The studio of a checkpoint, by the name that the picker shows; None is the first."""
        if name is None or (not self.first.problem and name == label_of(self.first.checkpoint)):
            return self.first
        return next((one for entry, one in self.others.values() if entry.name == name), None)

    def page_of(self, checkpoint: str) -> str | None:
        """The place of the page on which links of this checkpoint are opened; None without one."""
        if not self.first.problem and checkpoint == label_of(self.first.checkpoint):
            return ""
        return next(
            (path for path, (entry, _) in self.others.items()
             if checkpoint == label_of(entry.folder)),
            None,
        )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """Of all checkpoints that can be asked for."""
        own = [] if self.first.problem else [label_of(self.first.checkpoint)]
        return [*own, *(entry.name for entry, _ in self.others.values())]

    def view(self, here: str) -> dict[str, Any]:
        """What can be chosen now, for picker.js."""
        first = None if self.first.problem else self.first.checkpoint
        entries = shelf(first)
        known = {entry.folder: path for path, (entry, _) in self.others.items()}
        if first is not None:
            known[first] = ""
        return {
            "here": here,
            "entries": [
                {
                    "name": entry.name,
                    "path": known.get(entry.folder),
                    "words": entry.words
                    if entry.folder in known
                    else ELSEWHERE.format(entry.words, entry.name),
                }
                for entry in entries
            ],
        }


def add_picker(page: gr.Blocks, pages: Pages, here: str, controls: RunControls | None) -> None:
    """Adds the choice to the page with the place ``here``."""
    box = gr.HTML(
        pages.view(here),
        html_template='<div class="picker"></div>',
        js_on_load=script("shared/picker.js"),
        apply_default_css=False,
        elem_id="picker",
    )
    # A training that ended meanwhile is seen when the page is loaded again.
    page.load(lambda: pages.view(here), None, box, queue=False, **PRIVATE)
    if controls is not None:
        names = json.dumps(controls.studio.class_names)
        chosen = [controls.class_name, controls.seed]
        page.load(None, None, chosen, js=TAKE_OVER.replace("NAMES", names), **PRIVATE)
