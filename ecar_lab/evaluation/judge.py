"""Which net judges generated images, and what it says: distances, precision, recall.

Inception where it is installed and its weights are at hand; else the small net that the kit trained
on the data set. Only the former's results are called FID and KID.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import FeatureNet, FeatureOutput, find_features, load_features
from ecar_lab.evaluation.metrics import frechet_distance, kernel_distance, precision_recall
from ecar_lab.home import checkpoint_roots
from ecar_lab.stored import fingerprint

INCEPTION = "inception"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # what torch-fidelity calls them
NEIGHBOURS = 3  # of precision and recall


def load_inception(weights: Path) -> nn.Module:
    """Torchmetrics' Inception-v3, last pooling layer: uint8 (B, 3, H, W) -> (B, 2048).

    torch-fidelity would unpickle whatever the file holds. Only tensors are taken from it here, and
    handed over in place of the download.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    fidelity = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        with mock.patch.object(fidelity, "load_state_dict_from_url", return_value=state):
            return NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise EcarError(
            f"{str(weights)!r} does not hold torch-fidelity's Inception weights: "
            f"fetch {INCEPTION_FILE} again"
        ) from error


class InceptionFeatures(nn.Module):
    """Inception in the form of a feature net: images in [-1, 1], no logits of our classes."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> FeatureOutput:
        """Features (B, 2048) of images (B, 3, H, W) in [-1, 1]; logits are (B, 0)."""
        features = self.net(images.add(1).mul(127.5).round().clamp(0, 255).byte())
        return FeatureOutput(features, features.new_empty(len(features), 0))


@dataclass(frozen=True)
class Judge:
    """A net that distances are measured on.

    Attributes:
        name: goes into the names of the results; only Inception's are called FID and KID.
        fingerprint: start of the SHA-256 of its weights. net: images -> `FeatureOutput`.
    """

    name: str
    fingerprint: str
    net: nn.Module = field(compare=False)  # the fingerprint stands for it

    @property
    def is_inception(self) -> bool:
        return self.name == INCEPTION

    def label(self, metric: str) -> str:
        """What a result is called: ``fid``, or ``frechet_distance[features-cifar10]``."""
        if self.is_inception:
            return metric.replace("frechet_distance", "fid").replace("kernel_distance", "kid")
        return f"{metric}[{self.name}]"


def pick_judge(name_or_path: str, dataset: str, image_size: int) -> Judge:
    """The net to measure distances on.

    Args:
        name_or_path: ``auto`` (Inception if it is installed and its weights are at hand, else the
            data set's own net), ``inception``, Inception's weights file (``.pth``), or a feature
            net's name or folder.
        dataset, image_size: the shipped net for exactly this size is preferred.

    Raises:
        EcarError: that net is not to be had here; the sentence says how to get it.
    """
    wants_inception = name_or_path == INCEPTION or name_or_path.endswith(".pth")
    given = Path(name_or_path) if name_or_path.endswith(".pth") else None
    weights = given or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    installed = all(importlib.util.find_spec(name) for name in ("torch_fidelity", "torchvision"))
    if wants_inception and not installed:
        raise EcarError(
            "Inception features need torch-fidelity and torchvision: "
            "pip install 'ecar-lab[fid]', or use --feature-net auto"
        )
    if wants_inception and not weights.is_file():
        raise EcarError(
            f"there are no Inception weights at {str(weights)!r}: put {INCEPTION_FILE} there or "
            "name the file with --feature-net FILE.pth"
        )
    if wants_inception or (name_or_path == "auto" and installed and weights.is_file()):
        return Judge(INCEPTION, fingerprint(weights), InceptionFeatures(load_inception(weights)))
    auto = name_or_path == "auto"
    folder = find_own_net(dataset, image_size) if auto else find_features(name_or_path)
    return Judge(folder.resolve().name, fingerprint(folder), load_features(folder))


def refuse_own_teacher(judge: Judge, teacher: str | None) -> None:
    """Refuses a judge that a tokenizer was trained to please.

    Args:
        teacher: fingerprint of the net of the tokenizer's perceptual term, if it had one.

    Raises:
        EcarError: it is the judge.
    """
    if teacher and judge.fingerprint == teacher:
        raise EcarError(
            f"the feature net {judge.name!r} was in the loss of this tokenizer, which learned to "
            "please it: train another with `ecar train features --seed 1 --output FOLDER` and "
            "name it with --feature-net FOLDER"
        )


def find_own_net(dataset: str, image_size: int) -> Path:
    """The folder of a data set's net: the one for exactly this image size if there is one."""
    exact = f"features-{Path(dataset).stem}-{image_size}"
    if any((root / exact / FeatureNet.config_name).is_file() for root in checkpoint_roots()):
        return find_features(exact)
    return find_features(dataset)


def compare(
    judge: Judge, wanted: FeatureOutput, made: FeatureOutput, seed: int, brief: bool = False
) -> dict[str, Any]:
    """Distances, precision and recall of the images ``made`` against those ``wanted``; ``brief``
    leaves out the kernel distance, which takes longest."""
    # Both manifolds from as many points as were made: their balls shrink with the number.
    order = torch.randperm(len(wanted.features), generator=torch.Generator().manual_seed(seed))
    real = wanted.features[order[: len(made.features)]]
    precision, recall = precision_recall(real, made.features, NEIGHBOURS)
    distances = {judge.label("frechet_distance"): frechet_distance(wanted.features, made.features)}
    if not brief:
        mean, std = kernel_distance(wanted.features, made.features, seed=seed)
        distances[judge.label("kernel_distance")] = mean
        distances[judge.label("kernel_distance_std")] = std
    return {
        **distances,
        judge.label(f"precision_k{NEIGHBOURS}"): precision,
        judge.label(f"recall_k{NEIGHBOURS}"): recall,
        "images": len(made.features),
    }
