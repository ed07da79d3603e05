"""`ecar data`: which data sets are here, and what one of them looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from PIL import Image
from torch import Tensor

from ecar_lab.cli.switches import parse
from ecar_lab.data import dataset_names, open_dataset
from ecar_lab.data.opening import BUILT_IN, survey
from ecar_lab.errors import EcarError
from ecar_lab.files import IMAGE_FORMATS, check_output, data_root, output_file
from ecar_lab.schema import Count, Images
from ecar_lab.viz import pictures

THUMBNAIL = 64


@dataclass
class DataSwitches:
    """List the data sets that are here, or look into one of them."""

    name: tyro.conf.Positional[str | None] = None
    """Name, folder, .parquet or .tar file, or hub:OWNER/NAME; without one, all that is found is
    listed."""
    data: str | None = None
    """Folder that holds the data sets; without it the variable ECAR_DATA is used."""
    split: str = "train"
    """Which part of the set."""
    image_size: Count | None = None
    """Pixels; by default the set's own."""
    look: Images = 500
    """Images to read, chosen at random."""
    out: Path | None = None
    """Write a contact sheet, one row per class, to this picture."""
    columns: Images = 8
    """Images per class on the sheet."""


def run(arguments: list[str]) -> None:
    switches = parse(DataSwitches, "data", arguments)
    if switches.name is None:
        print(listing(data_root(switches.data)))
        return
    if switches.out is not None:
        check_output(switches.out, IMAGE_FORMATS)
    opened = partial(
        open_dataset,
        switches.name,
        split=switches.split,
        image_size=switches.image_size,
        data_root=switches.data,
    )
    info, sample = opened().info, opened(limit=switches.look)
    images, labels = sample.arrays()
    counts = labels.bincount(minlength=info.num_classes).tolist()
    print(sample.layout.report())
    print(f"{info.name}, split {info.split}: {info.num_images:,} images, {info.image_size} px")
    print(f"{info.num_classes} classes; of {len(labels)} images looked at:")
    print("\n".join(f"  {n:>4}  {name}: {counts[n]}" for n, name in enumerate(info.class_names)))
    if sample.skipped:
        print(f"{sample.skipped} more cannot be read and are skipped")
    if switches.out is not None:
        with output_file(switches.out) as fresh:
            contact_sheet(images, labels, info.class_names, switches.columns).save(fresh)
        print(f"{switches.out}: up to {switches.columns} images of each class")


def listing(root: Path | None) -> str:
    """One line per data set: known by name or found in ``root``."""
    here = survey(root) if root else {}
    found = {name: splits for name, splits in here.items() if isinstance(splits, dict)}
    refused = {name: error for name, error in here.items() if isinstance(error, EcarError)}
    lines = []
    for name in dict.fromkeys([*dataset_names(), *found]):
        if name in found:
            what = ", ".join(f"{split} {count:,}" for split, count in found[name].items())
        elif name in refused:
            continue
        else:
            what = "needs no file" if name in BUILT_IN else "not here"
        lines.append(f"{name:<16} {what}")
    if refused:
        lines += ["", "folders that are not opened:", *map(str, refused.values())]
    where = root or "none (give --data, or set the variable ECAR_DATA)"
    return "\n".join([*lines, "", f"data root: {where}"])


def contact_sheet(
    images: Tensor, labels: Tensor, class_names: Sequence[str], columns: int
) -> Image.Image:
    """The first ``columns`` images of every class, a row each; images are (N, 3, H, W) uint8."""
    blank = Image.new("RGB", (images.shape[-1], images.shape[-2]), "white")
    tiles, captions = [], []
    for number, name in enumerate(class_names):
        chosen = images[labels == number][:columns]
        if len(chosen):
            tiles += pictures.to_pil(chosen / 127.5 - 1) + [blank] * (columns - len(chosen))
            captions += [name] * len(chosen) + [""] * (columns - len(chosen))
    scale = max(1, round(THUMBNAIL / images.shape[-1]))
    return pictures.image_grid(tiles, columns, scale=scale, labels=captions)
