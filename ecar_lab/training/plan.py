"""What a training would take, before it is begun: images per second, hours, memory, cost.

FLOPs and activations are counted on the model of a preset without its numbers (PyTorch's ``meta``
device), so the plan of the largest one takes seconds anywhere. What a plan cannot count is which
part of a GPU's peak a training gets (``efficiency``) and what an hour costs: both are the
reader's, and the plan says so.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ecar_lab.device import pick_device, pick_dtype
from ecar_lab.errors import EcarError
from ecar_lab.machine import count_flops, matmul_rate
from ecar_lab.model import ECAR
from ecar_lab.presets import get_preset
from ecar_lab.schema import Count, Positive, Share, Text, checked, short
from ecar_lab.training.optim import is_hidden_matrix

HERE = "here"
FLOAT32 = 4  # bytes; weights, gradients, averages and the optimizer's state are kept in it
COUNTED = 8  # images that are counted at once: as many as have every stride in them


@dataclass(frozen=True)
class Gpu:
    """Dense bfloat16 FLOP/s and bytes of memory, as its maker states them."""

    flops: float
    memory: float


GPUS = {
    "l4": Gpu(121e12, 24e9),
    "rtx4090": Gpu(165e12, 24e9),
    "a100": Gpu(312e12, 80e9),
    "h100": Gpu(989e12, 80e9),
    "h200": Gpu(989e12, 141e9),
}


@dataclass(frozen=True)
class Plan:
    """What a training takes.

    Attributes:
        parameters: of the model. gflop_per_image: forward and backward pass.
        images, steps, batch_size: of the whole training, and images of a step, over all GPUs.
        max_minutes: time box of the preset, in which images and steps are what fits; None: there
            is none, or the number of images was given.
        peak_flops, efficiency: of one GPU; the share of it that the training is taken to get.
        images_per_second: over all GPUs. hours: of the clock. gpu_hours: times the GPUs.
        state_bytes: weights, gradients, average and optimizer of one GPU. image_bytes: what one
            image's forward pass keeps for the backward pass. memory_bytes: of one GPU, both
            together at its share of the batch; memory_there: what it has.
        fits: the largest share of a batch that the memory of one GPU holds.
        cost: of the hours, in the money of ``price``; None without one.
    """

    preset: str
    gpu: str
    gpus: int
    parameters: int
    gflop_per_image: float
    images: int
    steps: int
    max_minutes: float | None
    batch_size: int
    peak_flops: float
    efficiency: float
    images_per_second: float
    hours: float
    gpu_hours: float
    state_bytes: int
    image_bytes: int
    memory_bytes: int
    memory_there: float
    fits: int
    cost: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


@checked
def plan_training(
    preset: str = "imagenet256-b",
    *,
    gpu: Text = HERE,
    gpus: Count = 1,
    efficiency: Share = 0.35,
    images: Count | None = None,
    batch_size: Count | None = None,
    shard: bool = False,
    price: Positive | None = None,
) -> Plan:
    """``images * FLOPs per image / (gpus * peak * efficiency)``, and the memory of a step.

    Args:
        preset: what is trained. gpu: one that is known by name, or ``here``: this machine, its
            matrix product measured now. gpus: how many.
        efficiency: share of the peak (``here``: of the measured product) that a training gets.
            0.35 is what a compiled step of ``imagenet128-b`` got of a CPU's matrix product;
            nothing was measured on a GPU.
        images: that the model sees; None: the preset's steps times its batch, or what fits into
            its time box, if that is less.
        batch_size: images of a step over all GPUs; None: the preset's.
        shard: weights, gradients and optimizer are divided among the GPUs, not repeated.
        price: of an hour of one GPU, in any money.

    Raises:
        EcarError: an unknown preset or GPU, more GPUs than images in a batch, an efficiency of 0.
    """
    training = get_preset(preset).train_model
    name = gpu.lower()
    if name not in GPUS and name != HERE:
        raise EcarError(f"gpu {short(gpu)} is unknown: use {HERE}, {', '.join(GPUS)}")
    if efficiency == 0:
        raise EcarError("efficiency 0 would take for ever: use more, 0.35 say")
    if name == HERE and gpus > 1:
        raise EcarError(f"gpus {gpus} of this machine cannot be planned: name one with --gpu")
    batch_size = batch_size or training["batch_size"]
    if batch_size < gpus:
        raise EcarError(
            f"a batch of {batch_size} leaves some of {gpus} GPUs without an image: "
            f"use a batch of {gpus} or more"
        )
    parameters, flops, image_bytes, state = counts_of(preset)
    device = GPUS[name] if name in GPUS else this_machine()
    rate = gpus * device.flops * efficiency / flops
    state //= gpus if shard else 1
    box = None if images else training.get("max_minutes")
    steps = math.ceil(images / batch_size) if images else training["steps"]
    images = images or steps * batch_size
    hours = images / rate / 3600
    if box is not None and hours > box / 60:
        steps = max(1, int(box * 60 * rate / batch_size))
        images, hours = steps * batch_size, box / 60
    return Plan(
        preset=preset,
        gpu=name,
        gpus=gpus,
        parameters=parameters,
        gflop_per_image=flops / 1e9,
        images=images,
        steps=steps,
        max_minutes=box,
        batch_size=batch_size,
        peak_flops=device.flops,
        efficiency=efficiency,
        images_per_second=rate,
        hours=hours,
        gpu_hours=hours * gpus,
        state_bytes=state,
        image_bytes=image_bytes,
        memory_bytes=state + image_bytes * math.ceil(batch_size / gpus),
        memory_there=device.memory,
        fits=max(0, int((device.memory - state) // image_bytes)),
        cost=None if price is None else hours * gpus * price,
    )


def this_machine() -> Gpu:
    """The device that a training here would take: its matrix product measured now."""
    device = pick_device("auto")
    rate = matmul_rate(pick_dtype(device), device)
    if device.type == "cuda":
        return Gpu(rate, torch.cuda.get_device_properties(device).total_memory)
    return Gpu(rate, psutil.virtual_memory().total)


def count_of_an_image(
    model: ECAR, head_draws: list[int] | None = None, stage_strides: list[int] | None = None
) -> tuple[float, int]:
    """FLOPs of training a model without numbers on one image, and the bytes that its forward pass
    keeps: activations in bfloat16, with what norms and the loss keep in float32.

    Unfused attention would keep its scores, too; the trainer's is fused.
    """
    model.bfloat16()
    config = model.config
    draw = model.draw(COUNTED, torch.Generator().manual_seed(0), head_draws).to("meta")
    shape = (COUNTED, config.latent_channels, config.latent_size, config.latent_size)
    latent = torch.empty(shape, device="meta", dtype=torch.bfloat16)
    labels = torch.zeros(COUNTED, dtype=torch.long, device="meta")

    def loss() -> Tensor:
        return model.loss(latent, labels, draw, 0.0, stage_strides).loss

    flops = count_flops(lambda: loss().backward())
    weights = {_storage(parameter) for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        graph = loss()  # while it is there each storage has a place of its own
    del graph
    return flops / COUNTED, sum(kept.values()) // COUNTED


@functools.cache
def counts_of(preset: str) -> tuple[int, float, int, int]:
    """Of a preset's E-CAR and recipe: parameters, FLOPs and bytes of an image, bytes of state."""
    recipe = get_preset(preset).train_model
    with torch.device("meta"):
        model = ECAR.from_preset(preset)
    of_image = (recipe.get(name) for name in ("head_draws", "stage_strides"))
    return model.num_parameters(), *count_of_an_image(model, *of_image), state_bytes(model)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def state_bytes(model: nn.Module) -> int:
    """Weight, gradient and average of every parameter, one moment of Muon's and two of AdamW's."""
    numbers = 0
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            moments = 1 if is_hidden_matrix(module, parameter) else 2
            numbers += (3 + moments) * parameter.numel()
    return FLOAT32 * numbers


def in_the_box(plan: Plan) -> str:
    """What a preset's time box has to do with a plan, as the end of a line."""
    if plan.max_minutes is None:
        return ""
    ends_before = plan.hours < plan.max_minutes / 60
    fits = "all steps, within" if ends_before else "what fits into"
    return f": {fits} the preset's time box of {plan.max_minutes:g} minutes"


def described(plan: Plan) -> str:
    """A plan in lines for a person."""
    where = "this machine" if plan.gpu == HERE else f"{plan.gpus} x {plan.gpu}"
    stated = "measured now" if plan.gpu == HERE else "as its maker states"
    lines = [
        f"{plan.preset}: {plan.parameters / 1e6:.1f} M parameters, {plan.gflop_per_image:.1f} GFLOP"
        " per training image (counted)",
        f"{plan.images:,} images in {plan.steps:,} steps of {plan.batch_size} on {where}"
        + in_the_box(plan),
        f"{plan.peak_flops / 1e12:.2f} TFLOP/s each ({stated}), of which {plan.efficiency:.0%} "
        "(assumed)",
        f"-> {plan.images_per_second:,.1f} images/s, {plan.hours:,.1f} hours, "
        f"{plan.gpu_hours:,.1f} GPU hours" + ("" if plan.cost is None else f", {plan.cost:,.2f}"),
        f"memory of each: {plan.memory_bytes / 2**30:.1f} of {plan.memory_there / 2**30:.1f} GiB "
        f"(state {plan.state_bytes / 2**30:.1f}, {plan.image_bytes / 2**20:.0f} MiB an image)",
    ]
    if plan.memory_bytes > plan.memory_there:
        remedy = (
            f"at most {plan.fits} images fit on each: give --batch-size {plan.fits * plan.gpus}, "
            "or --grad-accum in the training"
            if plan.fits
            else "not even one image fits: take more GPUs with --shard, or larger ones"
        )
        lines.append(f"this does not fit: {remedy}")
    return "\n".join(lines)
