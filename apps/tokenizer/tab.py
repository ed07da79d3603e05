"""The Tokenizer tab: what becomes of a picture on its way through the latent and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from apps.shared.once import Once
from apps.shared.parts import LATEST, PRIVATE, QUEUE, banner, script, show_banner
from apps.shared.parts import visitor as visitor_of
from apps.shared.studio import Studio
from apps.tokenizer.uploads import MAX_SIDE, open_upload
from apps.tokenizer.views import Views
from ecar_lab.data.shapes import PICTURES
from ecar_lab.data.sources import picture_of
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError

GENERATED = "image of this model"
EXTENSIONS = [".png", ".jpg", ".jpeg", ".webp"]
INTRODUCTION = (
    "The tokenizer turns an image into a smaller latent and back; E-CAR generates latents. What it "
    "loses, no generator can bring back. It knows the images that it was trained on: what looks "
    "like none of them comes back worse."
)
LIMITS = (
    f"PNG, JPEG or WebP, at most 5 MB and {MAX_SIDE} px per side. It stays on the machine that "
    "this page comes from."
)


class TokenizerTab:
    """A picture to choose or bring along, and its views."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._known = Once[dict[str, Any]]()
        gr.HTML(f"<p>{INTRODUCTION}</p>", elem_classes="introduction")
        self.banner = show_banner(None, "tokenizer-banner")
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=3, min_width=270, elem_id="tokenizer-controls"):
                self.choice = gr.Radio(
                    [*PICTURES, GENERATED],
                    value=next(iter(PICTURES)),
                    label="Picture",
                    info="Drawn by the kit, or made by the model when this page's server started.",
                    elem_id="tokenizer-picture",
                )
                self.upload = gr.UploadButton(
                    "Use a picture of your own",
                    file_types=EXTENSIONS,
                    file_count="single",
                    type="filepath",
                    elem_id="tokenizer-upload",
                )
                gr.HTML(f"<p>{LIMITS}</p>", elem_classes="introduction")
            with gr.Column(scale=9, min_width=330):
                self.views = gr.HTML(
                    None,
                    html_template='<div class="views"></div>',
                    js_on_load=script("tokenizer/tokenizer.js"),
                    apply_default_css=False,
                    elem_id="tokenizer-views",
                    elem_classes="player-host",
                )

    def wire(self, page: gr.Blocks) -> None:
        """Connects choices to what they do."""
        shown = [self.views, self.banner, self.choice]
        page.load(self.choose, self.choice, shown, **PRIVATE, **QUEUE)
        self.choice.input(self.choose, self.choice, shown, **LATEST, **PRIVATE, **QUEUE)
        self.upload.upload(self.bring, self.upload, shown, **PRIVATE, **QUEUE)

    def choose(self, name: str) -> dict:
        """The views of a picture that is at hand; they are made once for all visitors."""
        try:
            with told_when_memory_is_full():
                views = self._known.get(name, lambda: self._make_known(name))
            return {self.views: views, self.banner: ""}
        except EcarError as error:
            return {self.banner: banner(str(error))}

    def _make_known(self, name: str) -> dict[str, Any]:
        picture, title = self._picture(name)
        return self._make(picture, title, self.studio.folders.new_run(None))

    def bring(self, file: str, request: gr.Request) -> dict:
        """The views of a visitor's own picture, in the visitor's own folder."""
        try:
            image = open_upload(Path(file))
            width, height = image.size
            size = self.studio.pipeline.image_size
            title = f"your picture, {width}×{height} px, its middle square scaled to {size}×{size}"
            with told_when_memory_is_full():
                folder = self.studio.folders.new_run(visitor_of(request), "tokenizer")
                views = self._make(picture_of(image, size), title, folder)
        except EcarError as error:
            return {self.banner: banner(str(error))}
        return {self.views: views, self.banner: "", self.choice: gr.update(value=None)}

    def _make(self, picture: Tensor, title: str, folder: Path) -> dict[str, Any]:
        views = Views(self.studio.pipeline, self.studio.colours, picture, title, folder)
        return views.to_json()

    def _picture(self, name: str) -> tuple[Tensor, str]:
        size = self.studio.pipeline.image_size
        if name in PICTURES:
            return PICTURES[name](size), f"{name}, {size}×{size} px, drawn by the kit"
        progress = self.studio.opening() if name == GENERATED else None
        if progress is None or progress.image is None:
            raise EcarError(f"there is no picture {name!r} yet: choose another")
        with Image.open(progress.image) as image:
            return picture_of(image, size), f"generated: {progress.settings}"
