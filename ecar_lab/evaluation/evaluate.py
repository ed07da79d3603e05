"""How good a checkpoint is: ``ecar evaluate``, every number with what is needed to repeat it.

Images are generated with a fixed seed and balanced classes, and compared with a split of the real
data on the features of one net (`feature_net`). Two reference points make the distances readable:
another real split (the best one could hope for) and the tokenizer's reconstructions (the best this
tokenizer allows), both with as many images as were generated.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecar_lab import files
from ecar_lab.baselines import load_pipeline
from ecar_lab.cost import idle_guidance
from ecar_lab.data import ImageDataset, open_dataset
from ecar_lab.device import autocast, pick_device, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.evaluation.feature_net import (
    FeatureOutput,
    accuracy,
    extract,
    load_features,
    to_unit_range,
)
from ecar_lab.evaluation.judge import (
    Judge,
    compare,
    find_own_net,
    fingerprint,
    pick_judge,
    refuse_own_teacher,
)
from ecar_lab.evaluation.sampling import Sampling, generate, to_bytes
from ecar_lab.generator import LatentGenerator
from ecar_lab.machine import machine, versions
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.presets import get_preset
from ecar_lab.schema import Images, NotNegative, Pairs, Seed, Steps, Text, checked
from ecar_lab.tokenizers.base import psnr

logger = logging.getLogger(__name__)
LOSS_IMAGES = 512  # held-out images that the loss is measured on
FEWEST_SAMPLES = 8


@checked
def evaluate(
    checkpoint: Text,
    dataset: Text | None = None,
    data_root: Text | None = None,
    num_samples: Images = 2000,
    batch_size: Images = 64,
    seed: Seed = 0,
    num_inference_steps: Steps | Sequence[Steps] | None = None,
    guidance_scale: NotNegative | Sequence[NotNegative] | None = None,
    guidance_interval: Pairs = None,
    time_power: float | Sequence[float] | None = None,
    solver: str | None = None,
    renoise: bool = True,
    feature_net: str = "auto",
    reference_split: str = "test",
    brief: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Generates images from a checkpoint and measures them against real ones.

    Args:
        checkpoint: folder or name of a shipped checkpoint.
        dataset: data set to compare with; None means the one it was trained on.
        data_root: folder of data sets; None means ``$ECAR_DATA``.
        num_samples: images to generate; distances of different numbers do not compare.
        batch_size: images generated at once; changes the time, not the images.
        seed: of the noise, of the subsets and of the loss's draws.
        num_inference_steps: flow steps, one number or one per stage; None means the checkpoint's.
        guidance_scale: one number or one per stage, 1 is none; None means the checkpoint's.
        guidance_interval: local times between which guidance acts, 0 1 is the whole stage: one pair
            or one per stage; None means the checkpoint's.
        time_power: of the steps' times (i / K) ** p, one number or one per stage, 1 is even steps;
            None means the checkpoint's.
        solver: ``ab2``, ``euler`` or ``heun``; None means the model's.
        renoise: False leaves out the noise at E-CAR's transitions, to see what it is good for.
        feature_net: ``auto``, ``inception``, Inception's weights file, or a feature net.
        reference_split: split of the data set that the images are compared with.
        brief: leave out the reference points, the loss and the kernel distance.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        output: JSON file to write.

    Returns:
        What was written: metrics, reference points, losses, and all settings and versions.

    Raises:
        EcarError: an unusable setting, checkpoint, data set or feature net.
    """
    started = time.perf_counter()
    for name, value, least in (
        ("num_samples", num_samples, FEWEST_SAMPLES),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise EcarError(f"{name} {value} is too small: use {least} or more")
    if output is not None:
        output = files.check_output(output, [".json"])  # before the work, not after it
    folder = files.resolve_checkpoint(checkpoint)
    run_device = pick_device(device)
    pipe = load_pipeline(folder, dtype=torch.float32).to(run_device)
    pipe.set_progress_bar_config(disable=True)
    intervals = [list(ends) for ends in pipe.model.intervals(guidance_interval)]
    sampling = Sampling(
        solver=pipe.model.solver(solver),
        num_inference_steps=pipe.model.inference_steps(num_inference_steps),
        guidance_scale=pipe.model.guidance(guidance_scale),
        num_samples=num_samples,
        seed=seed,
        batch_size=batch_size,
        device=run_device,
        dtype=pick_dtype(run_device, dtype),
        renoise=renoise,
        guidance_interval=intervals,
        time_power=pipe.model.powers(time_power),
    )
    plan = sampling.num_inference_steps, sampling.guidance_scale
    if doubt := idle_guidance(*plan, intervals, pipe.model.powers(time_power)):
        logger.warning("%s", doubt)
    data_name = dataset or trained_on(folder)
    judge = pick_judge(feature_net, data_name, pipe.image_size)
    refuse_own_teacher(judge, pipe.tokenizer.config.get("perceptual_net"))

    def real(split: str, limit: int | None = None) -> ImageDataset:
        size = pipe.image_size
        data = open_dataset(
            data_name, split=split, image_size=size, data_root=data_root, limit=limit
        )
        return match_classes(data, pipe.model)

    reference = real(reference_split)
    other = real("test" if reference.info.split == "train" else "train", limit=num_samples)
    held_out = other if reference.info.split == "train" else reference

    images, labels, seconds = generate(pipe, sampling)
    reference_images, reference_labels = reference.arrays()
    root = files.data_root(data_root)
    wanted = features_of_split(
        judge, data_name, reference.info.split, pipe.image_size, root, run_device
    )
    made = extract(judge.net, images, device=run_device)
    accuracies = class_accuracies(
        judge,
        data_name,
        pipe,
        [images, reference_images],
        [labels, reference_labels],
        [made.logits, wanted.logits],
    )
    result = {
        "checkpoint": folder.name,
        "checkpoint_hash": fingerprint(folder),
        "dataset": Path(data_name).name,
        "image_size": pipe.image_size,
        "sampling": sampling.record(),
        "reference": {
            "split": reference.info.split,
            "images": len(reference_labels),
            "skipped": reference.skipped,
        },
        "feature_net": {"name": judge.name, "hash": judge.fingerprint},
        "metrics": compare(judge, wanted, made, seed, brief),
        "reference_points": {},
        "class_accuracy": accuracies,
        "loss": None,
        "seconds": {
            "sampling": round(seconds, 3),
            "per_image": round(seconds / num_samples, 5),
            "total": round(time.perf_counter() - started, 3),
        },
        "machine": machine(run_device),
        "versions": versions(),
        "command": command(
            checkpoint=folder.name,
            dataset=dataset and Path(dataset).name,
            num_samples=num_samples,
            batch_size=batch_size,
            seed=seed,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            guidance_interval=[end for ends in intervals for end in ends],
            time_power=sampling.time_power,
            solver=sampling.solver,
            feature_net=judge.name,
            reference_split=reference_split,
            device=run_device.type,
            dtype=str(sampling.dtype).removeprefix("torch."),
            renoise=renoise,
            brief=brief,
        ),
    }
    if not brief:
        others = extract(judge.net, other.arrays()[0], device=run_device)
        result["reference_points"] = {
            f"real {other.info.split} images": compare(judge, wanted, others, seed),
            "reconstructions": reconstruct(pipe, judge, sampling, reference_images, wanted),
        }
        result["loss"] = held_out_loss(pipe, held_out, seed, sampling.dtype)
        result["seconds"]["total"] = round(time.perf_counter() - started, 3)
    if output is not None:
        files.write_json(output, result)
    return result


@functools.lru_cache(maxsize=2)
def features_of_split(
    judge: Judge,
    dataset: str,
    split: str,
    image_size: int,
    data_root: Path | None,
    device: torch.device,
) -> FeatureOutput:
    """Features of all real images of a split; kept, since one process may judge many models."""
    data = open_dataset(dataset, split=split, image_size=image_size, data_root=data_root)
    return extract(judge.net, data.arrays()[0], device=device)


def match_classes(data: ImageDataset, model: LatentGenerator) -> ImageDataset:
    """The images with the model's numbers for their classes, matched by name.

    Raises:
        EcarError: the model was made for other classes.
    """
    names = model.class_names
    if not model.config.class_names and len(names) == data.info.num_classes:
        logger.info("the checkpoint does not name its classes: they are matched by number")
        return data
    return data.numbered_as(names)


def trained_on(folder: Path) -> str:
    """The data set that the checkpoint in ``folder`` says it was trained on.

    Raises:
        EcarError: it does not say.
    """
    try:
        record = json.loads((folder / "training.json").read_text("utf-8"))
        return record.get("dataset") or get_preset(record["preset"]).dataset
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EcarError(
            f"the checkpoint {folder.name!r} does not say what it was trained on: "
            "name the data set with --dataset"
        ) from error


@torch.inference_mode()
def reconstruct(
    pipe: ECARPipeline, judge: Judge, sampling: Sampling, images: Tensor, wanted: FeatureOutput
) -> dict[str, Any]:
    """What encoding and decoding alone costs: distances and PSNR (dB) of reconstructed images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(sampling.seed))
    chosen = images[order[: sampling.num_samples]]
    parts = []
    for chunk in chosen.split(sampling.batch_size):
        with autocast(sampling.device, sampling.dtype):
            latent = pipe.tokenizer.encode(to_unit_range(chunk.to(sampling.device)))
            parts.append(to_bytes(pipe.tokenizer.decode(latent)))
    rebuilt = torch.cat(parts)
    features = extract(judge.net, rebuilt, device=sampling.device)
    quality = psnr(to_unit_range(rebuilt), to_unit_range(chosen))
    return {**compare(judge, wanted, features, sampling.seed), "psnr": quality}


def class_accuracies(
    judge: Judge,
    dataset: str,
    pipe: ECARPipeline,
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    logits: Sequence[Tensor],
) -> dict[str, Any] | None:
    """How often a classifier names the wanted class: on generated images and on real ones.

    Inception knows other classes, so the data set's own net judges here; None if there is none.

    Args:
        images, labels, logits: the generated set, then the real one; logits are the judge's own.
    """
    name = judge.name
    if judge.is_inception:
        try:
            folder = find_own_net(dataset, pipe.image_size)
        except EcarError:
            return None
        net, name = load_features(folder), folder.name
        logits = [extract(net, part, device=pipe.device).logits for part in images]
    else:
        net = judge.net
    known = list(getattr(getattr(net, "config", None), "class_names", None) or ())
    wanted = pipe.model.class_names
    if logits[0].shape[1] != len(wanted) or (known and set(known) != set(wanted)):
        logger.info("%s tells other classes apart: it cannot say how many are right", name)
        return None
    if known:
        order = [known.index(class_name) for class_name in wanted]
        logits = [scores[:, order] for scores in logits]
    both = list(zip(("generated", "real"), logits, labels, strict=True))

    def per_class(number: int) -> dict[str, float | None]:
        return {
            kind: accuracy(scores[truth == number], truth[truth == number])
            if (truth == number).any()
            else None
            for kind, scores, truth in both
        }

    return {
        "classifier": name,
        **{kind: accuracy(scores, truth) for kind, scores, truth in both},
        "per_class": {
            class_name: per_class(number)
            for number, class_name in enumerate(pipe.model.class_names)
        },
    }


@torch.inference_mode()
def held_out_loss(
    pipe: ECARPipeline,
    held_out: ImageDataset,
    seed: int,
    dtype: torch.dtype,
    num_images: int = LOSS_IMAGES,
) -> dict[str, Any]:
    """The velocity error on images that were not trained on, with draws fixed by the seed.

    ``per_time_bin[s][i]`` is the mean over stage s's i-th eighth of local time.
    """
    images, labels = held_out.arrays()
    device = pipe.model.device
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:num_images]
    draws = torch.Generator().manual_seed(seed)
    per_stage, per_bin, weights = [], [], []
    for chosen in order.split(64):  # a multiple of the time bins: draws are stratified over them
        draw = pipe.model.draw(len(chosen), draws).to(device)
        with autocast(device, dtype):
            pixels = to_unit_range(images[chosen].to(device))
            mean, std = pipe.tokenizer.moments(pixels)
            latent = mean.float() + std.float() * draw.latent_noise
            loss = pipe.model.loss(latent, labels[chosen].to(device), draw)
        per_stage.append(loss.per_stage.float().cpu())
        per_bin.append(loss.per_bin.float().cpu())
        weights.append(len(chosen))
    share = torch.tensor(weights) / sum(weights)
    stages = (torch.stack(per_stage) * share[:, None]).sum(dim=0)
    bins = torch.stack(per_bin).nanmean(dim=0)
    return {
        "split": held_out.info.split,
        "images": len(order),
        "mean": stages.mean().item(),
        "per_stage": stages.tolist(),
        "per_time_bin": [[None if v != v else v for v in row] for row in bins.tolist()],
    }


def command(**options: Any) -> str:
    """The command line that gives the same result again."""
    usual = {"renoise": True, "brief": False}
    words = []
    for name, value in options.items():
        switch = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{'' if value else 'no-'}{switch}"] if value != usual[name] else []
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            words.append(f"--{switch} {' '.join(map(str, values))}")
    return f"ecar evaluate {' '.join(words)}"


def markdown(result: dict[str, Any]) -> str:
    """A result as the tables that a model card shows."""
    sampling, reference = result["sampling"], result["reference"]
    points = {"generated": result["metrics"], **result["reference_points"]}
    names = [name for name in result["metrics"] if not name.startswith("kernel_distance_std")]
    steps = f"{sampling['num_inference_steps']} steps of power {sampling['time_power']}"
    guidance = f"{sampling['guidance_scale']} in {sampling['guidance_interval']}"
    lines = [
        f"{sampling['num_samples']} images, seed {sampling['seed']}, {sampling['solver']} "
        f"{steps}, guidance {guidance}, against "
        f"{reference['images']} images of the {reference['split']} split.",
        "",
        "| | " + " | ".join(points) + " |",
        "|---" * (len(points) + 1) + "|",
    ]
    for name in names:
        cells = [f"{point[name]:.4g}" for point in points.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if shares := result["class_accuracy"]:
        lines += ["", f"Classified correctly by {shares['classifier']}:", ""]
        lines += ["| class | generated | real |", "|---|---|---|"]
        rows = {"all": shares, **shares["per_class"]}
        for name, row in rows.items():
            cells = ["-" if row[k] is None else f"{row[k]:.1%}" for k in ("generated", "real")]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"`{result['command']}`", ""]
    return "\n".join(lines)
