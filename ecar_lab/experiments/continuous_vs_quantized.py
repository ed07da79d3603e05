"""The paper's third claim: continuous tokens serve images better than quantized ones.

Two tokenizers of one shape, trained alike, a KL-VAE and its vector-quantised twin; then the same
causal transformer over the tokens of either, with a flow head (continuous) or a softmax over the
code book (quantized). Tokens, parameters, images and steps are equal; what is not is listed with
the result.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ecar_lab.cost import total_flops
from ecar_lab.experiments.lab import figures
from ecar_lab.experiments.lab.lab import Lab
from ecar_lab.experiments.lab.scores import frechet, named_right, plus_minus, spread
from ecar_lab.viz.colours import STAGE_HUES


class Settings(NamedTuple):
    """Per size: steps of a tokenizer's training (None: the preset's), and the code books tried."""

    tokenizer_steps: int | None
    codebooks: tuple[int, ...]


SETTINGS = {
    "smoke": Settings(3, (16,)),
    "cpu": Settings(600, (1024,)),
    "gpu": Settings(None, (1024, 4096)),
}
FLOW_STEPS = 16  # of the flow head per token; a softmax draws in one
IMAGES = 2000  # that the information in a token is measured on
CONFOUNDED = (
    "Bits per token are not equal: see the table. A code book is as large as we made it; the "
    "KL-VAE's rate follows from the weight of its KL term.",
    "Reconstruction and generation are measured through the decoder that was trained with the "
    "tokens, so a difference in generation holds that of the tokenizers.",
    "The flow head is trained on four noises per token and sampled in many steps, the softmax on "
    "one target and in one step: FLOPs of training and of an image differ, see the table.",
    "The KL-VAE's latent is sampled anew each time it is trained on, a code is always the same.",
    "Both tokenizers take the settings that were chosen on the KL-VAE.",
)


def run(lab: Lab) -> dict[str, Any]:
    """Reconstruction and generation with continuous tokens and with each code book."""
    settings = SETTINGS[lab.size.name]
    parts = [(codes, seed) for codes in (None, *settings.codebooks) for seed in lab.size.seeds]
    measured: dict[int | None, list[dict[str, Any]]] = {}
    for codes, seed in lab.each(parts, "tokens and seeds"):
        measured.setdefault(codes, []).append(measure(lab, settings, codes, seed))
    rows = [summary(codes, runs) for codes, runs in measured.items()]
    return {"rows": rows, "flow_steps": FLOW_STEPS, "confounded": list(CONFOUNDED)}


def measure(lab: Lab, settings: Settings, codes: int | None, seed: int) -> dict[str, Any]:
    """One tokenizer and one generator; ``codes`` None means continuous."""
    from ecar_lab.baselines import load_pipeline
    from ecar_lab.evaluation.judge import fingerprint

    kind = {"kind": "kl"} if codes is None else {"kind": "vq", "codebook_size": codes}
    steps = {} if settings.tokenizer_steps is None else {"steps": settings.tokenizer_steps}
    tokenizer = lab.train_tokenizer(seed=seed, tokenizer=kind, **steps)
    architecture, model = "mar", {"patch_size": 1}
    if codes is not None:
        architecture, model = "code-ar", {"codebook_size": codes}
    trained = lab.train(
        architecture=architecture, seed=seed, model=model, tokenizer=str(tokenizer),
        stage_strides=None,
        head_draws=None,
    )  # fmt: skip
    sampling_steps = FLOW_STEPS if codes is None else 1
    result = lab.evaluate(trained, num_inference_steps=sampling_steps, brief=False)
    pipe = load_pipeline(trained.folder)
    rebuilt = result["reference_points"]["reconstructions"]
    return {
        "psnr": rebuilt["psnr"],
        "frechet_reconstructed": frechet({"metrics": rebuilt}),
        "frechet_generated": frechet(result),
        "named_right": named_right(result),
        "gflop": total_flops(pipe.model.flops(sampling_steps)) / 1e9,
        "tokens": (pipe.model.config.latent_size // pipe.model.config.patch_size) ** 2,
        "tokenizer_parameters": pipe.tokenizer.num_parameters(),
        "trained": trained.record(),
        **lab.remember(
            "information",
            {"tokenizer": fingerprint(tokenizer), "images": IMAGES},
            lambda: information(lab, tokenizer),
        ),
    }


def summary(codes: int | None, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One kind of tokens over all seeds."""
    once = ("gflop", "tokens", "tokenizer_parameters")
    several = [name for name in runs[0] if name not in (*once, "trained")]
    return {
        "name": "continuous" if codes is None else f"{codes:,} codes",
        "codebook_size": codes,
        **{name: runs[0][name] for name in once},
        **{name: spread([run[name] or 0.0 for run in runs]) for name in several},
        "trained": [run["trained"] for run in runs],
    }


def information(lab: Lab, tokenizer_folder: Path) -> dict[str, Any]:
    """What a token says of an image, on held-out ones.

    ``bits``: for a code book log2 K; for a KL-VAE its rate, KL(q(z | image) || N(0, 1)) / ln 2, a
    bound from above. ``bits_used``: the entropy of the codes as they occur; the rate again.
    """
    from ecar_lab.data import open_dataset
    from ecar_lab.evaluation.feature_net import to_unit_range
    from ecar_lab.presets import get_preset
    from ecar_lab.tokenizers.makers import ConvTokenizer, load_tokenizer
    from ecar_lab.tokenizers.networks import nearest_pairs

    preset = get_preset(lab.size.preset)
    images, _ = open_dataset(
        preset.dataset,
        split="test",
        image_size=preset.image_size,
        data_root=lab.data_root,
        limit=IMAGES,
    ).arrays()
    tokenizer = load_tokenizer(tokenizer_folder)
    assert isinstance(tokenizer, ConvTokenizer)
    with torch.no_grad():
        moments = [tokenizer.moments(to_unit_range(part)) for part in images.split(250)]
    mean, std = (torch.cat(parts).movedim(1, -1).double() for parts in zip(*moments, strict=True))
    scale = tokenizer.latent_scale.double()
    mean, std = mean / scale + tokenizer.latent_shift.double(), std / scale
    if tokenizer.quantiser is None:
        rate = rate_in_bits(mean, std)
        return {"bits": rate, "bits_used": rate}
    codes = tokenizer.quantiser.codebook.detach()
    ids, _ = nearest_pairs(mean.flatten(0, -2).float(), codes)
    return {"bits": math.log2(len(codes)), "bits_used": entropy_in_bits(ids)}


def rate_in_bits(mean: Tensor, std: Tensor) -> float:
    """KL(N(mean, std²) || N(0, 1)) in bits, summed over the last axis, mean over all others."""
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log())
    return kl.sum(dim=-1).mean().item() / math.log(2)


def entropy_in_bits(ids: Tensor) -> float:
    """Entropy of the empirical distribution of ids (N,)."""
    share = torch.bincount(ids).double() / len(ids)
    share = share[share > 0]
    return -(share * share.log2()).sum().item()


PANELS = (
    ("psnr", "reconstruction: PSNR in dB (higher is better)"),
    ("frechet_reconstructed", "reconstruction: Frechet distance"),
    ("frechet_generated", "generation: Frechet distance"),
)


def draw(result: dict[str, Any]) -> Figure:
    """Reconstruction and generation, one bar per kind of tokens."""
    rows = result["rows"]
    figure, axes = figures.new_figure(3, width=3.7, height=0.9 + 0.45 * len(rows))
    colours = [STAGE_HUES[0 if row["codebook_size"] is None else 1] for row in rows]
    for axis, (name, label) in zip(axes, PANELS, strict=True):
        figures.bars(axis, [r["name"] for r in rows], [r[name] for r in rows], color=colours)
        axis.set_xlabel(label, fontsize=9)
    axes[0].set_title("Continuous and quantized tokens", fontsize=10, loc="left")
    return figure


def table(result: dict[str, Any]) -> str:
    """One row per kind of tokens, and what is confounded."""
    header = [
        *("tokens", "number", "bits each", "of these used", "PSNR (dB)"),
        *("Frechet distance, reconstructed", "generated", "named right"),
        *("generator (M)", "GFLOP an image", "TFLOP of training"),
    ]
    rows = [
        [
            row["name"],
            row["tokens"],
            f"{row['bits']['mean']:.1f}",
            f"{row['bits_used']['mean']:.1f}",
            plus_minus(row["psnr"], 1),
            plus_minus(row["frechet_reconstructed"]),
            plus_minus(row["frechet_generated"]),
            f"{row['named_right']['mean']:.1%}",
            f"{row['trained'][0]['parameters'] / 1e6:.2f}",
            f"{row['gflop']:.3f}",
            f"{row['trained'][0]['train_flops'] / 1e12:.1f}",
        ]
        for row in result["rows"]
    ]
    notes = [f"- {sentence}" for sentence in result["confounded"]]
    return "\n".join([figures.markdown_table(header, rows), "", "Not equal:", *notes])
