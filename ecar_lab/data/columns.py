"""Which column of a table holds the images, and which one the labels: by type, then by name."""

from __future__ import annotations

from typing import Any

from ecar_lab.errors import EcarError

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")
NO_LABELS = "none"
ENCODED = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def image_column(name: str, where: str, features: dict[str, Any], wanted: str | None) -> str:
    """The column of images.

    Raises:
        EcarError: there is none, or it holds no images.
    """
    import datasets

    typed = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [key for key in IMAGE_COLUMNS if key in features]
    usable = [key for key in named if fault_of_images(features[key]) is None]
    column = wanted or next(
        iter([key for key in named if key in typed] + typed + usable + named), ""
    )
    if column not in features:
        raise EcarError(
            f"{name!r} has no image column {column or IMAGE_COLUMNS[0]!r} among "
            f"{', '.join(features)}{where}: "
            "name it with image_column (--image-column)"
        )
    if fault := fault_of_images(features[column]):
        raise EcarError(
            f"the column {column!r} of {name!r}{where} holds {fault}: name another one with "
            "image_column (--image-column), or store one image in each row"
        )
    return column


def label_column(name: str, where: str, features: dict[str, Any], wanted: str | None) -> str:
    """The column of labels, or ``none``.

    Raises:
        EcarError: there is none.
    """
    import datasets

    typed = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [key for key in LABEL_COLUMNS if key in features]
    column = wanted or next(iter([key for key in named if key in typed] + named + typed), "")
    if column != NO_LABELS and column not in features:
        raise EcarError(
            f"{name!r} has no label column {column or LABEL_COLUMNS[0]!r} among "
            f"{', '.join(features)}{where}: name it "
            f"with label_column (--label-column), or {NO_LABELS!r} to take the set as one class"
        )
    return column


def fault_of_images(feature: Any) -> str | None:
    """What a column holds instead of images; None if it may hold images."""
    import datasets

    if isinstance(feature, datasets.Image) or pixel_type(feature):
        return None
    if isinstance(feature, dict):
        return None if {"bytes", "path"} & set(feature) else "records without bytes or path"
    if isinstance(feature, datasets.Value):
        return None if feature.dtype in ENCODED else f"{feature.dtype}, no images"
    depth, leaf = _leaf(feature)
    if depth == 0:
        return f"{type(feature).__name__}, no images"
    if isinstance(leaf, datasets.Value) and leaf.dtype not in ENCODED:
        return f"{depth}-dimensional lists of numbers, which are no images (H, W) or (H, W, 3)"
    return "lists of images"


def pixel_type(feature: Any) -> str:
    """numpy's name for the numbers of a column of nested lists (H, W), (H, W, C), (C, H, W), else
    ""."""
    import datasets

    if isinstance(feature, datasets.Array2D | datasets.Array3D):
        return feature.dtype
    depth, leaf = _leaf(feature)
    if depth not in (2, 3) or not isinstance(leaf, datasets.Value):
        return ""
    return leaf.dtype if leaf.dtype.startswith(("int", "uint", "float", "bool")) else ""


def _leaf(feature: Any) -> tuple[int, Any]:
    depth = 0
    while not isinstance(feature, dict | str) and hasattr(feature, "feature"):
        depth, feature = depth + 1, feature.feature
    while isinstance(feature, list) and len(feature) == 1:
        depth, feature = depth + 1, feature[0]
    return depth, feature
