"""Data sets and the order in which a training reads them; what the rest of the kit opens is below.

May import ``errors``, ``files`` and ``tokenizers`` (for cached latents).
Begin with ``datasets.py``; ``opening.py`` finds the rows, ``sources.py`` makes pixels of them.
"""

from ecar_lab.data.datasets import (
    DatasetInfo,
    ImageDataset,
    dataset_names,
    open_dataset,
)
from ecar_lab.data.layout import Layout
from ecar_lab.data.opening import find_datasets

__all__ = [
    "DatasetInfo",
    "ImageDataset",
    "Layout",
    "dataset_names",
    "find_datasets",
    "open_dataset",
]
