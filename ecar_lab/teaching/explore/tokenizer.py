"""Notebook 1: one image through the tokenizer, its latent disturbed on the way; bits; factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ecar_lab.experiments.continuous_vs_quantized import rate_in_bits
from ecar_lab.experiments.lab.figures import line
from ecar_lab.teaching.explore import choice, explorer, real
from ecar_lab.teaching.figures import new_figure, show, table
from ecar_lab.tokenizers.base import Tokenizer, psnr
from ecar_lab.tokenizers.makers import AutoencoderTokenizer, ConvTokenizer
from ecar_lab.tokenizers.study import error_map, ramp, round_latent, without_channel
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import image_grid

NONE, EXACT = "none", "not rounded"
TOP = 0.25  # share of the range of colours at which the error map ends, the same in every picture


class Look(NamedTuple):
    """One image on its way through the tokenizer, all on the CPU.

    Attributes:
        latent: (1, C, h, w), disturbed. rebuilt: (1, 3, H, W). error: (1, H, W), a share of the
            range of colours. psnr: in dB.
    """

    latent: Tensor
    rebuilt: Tensor
    error: Tensor
    psnr: float


@torch.no_grad()
def look(
    tokenizer: Tokenizer,
    image: Tensor,
    *,
    without: int | None = None,
    sigma: float = 0.0,
    bits: int | None = None,
    seed: int = 0,
) -> Look:
    """Encodes, disturbs and decodes an image (1, 3, H, W), in this order: one channel set to 0,
    noise of standard deviation ``sigma`` added, every number rounded to ``2**bits`` levels.

    Raises:
        EcarError: an image the tokenizer does not take, or bits out of range.
    """
    latent = tokenizer.encode(image.to(tokenizer.device)).cpu()
    if without is not None:
        latent = without_channel(latent, without)
    generator = torch.Generator().manual_seed(seed)
    latent = latent + sigma * torch.randn(latent.shape, generator=generator)
    if bits is not None:
        latent = round_latent(latent, bits)
    rebuilt = tokenizer.decode(latent.to(tokenizer.device)).cpu()
    image = image.cpu()
    return Look(latent, rebuilt, error_map(image, rebuilt), psnr(image, rebuilt))


def looking_glass(tokenizer: Tokenizer, images: Mapping[str, Tensor], side: int = 128):
    """Controls for image, channel, noise and rounding above what the decoder makes of it.

    Args:
        images: name -> (1, 3, H, W) in [-1, 1], all of one size.
        side: pixels that an image is enlarged to at least.
    """
    colours = LatentColours.of(tokenizer)

    def draw(name: str, without: str, sigma: float, bits: str) -> Image.Image:
        image = images[name]
        seen = look(
            tokenizer, image,
            without=None if without == NONE else int(without),
            sigma=sigma,
            bits=None if bits == EXACT else int(bits),
        )  # fmt: skip
        size = image.shape[-1]
        latent = torch.nn.functional.interpolate(colours(seen.latent), size=(size, size))
        tiles = torch.cat([image.cpu(), latent, seen.rebuilt, ramp(seen.error, TOP)])
        labels = ["image", "latent", f"{seen.psnr:.1f} dB", "error"]
        return image_grid(tiles, 4, scale=max(1, -(-side // size)), labels=labels)

    channels = [str(channel) for channel in range(tokenizer.latent_channels)]
    controls = {
        "name": choice("image", list(images)),
        "without": choice("channel set to 0", [NONE, *channels]),
        "sigma": real("noise on the latent", 0.0, 1.0, 0.0, 0.05),
        "bits": choice("bits per number", [EXACT, *map(str, range(1, 9))]),
    }
    return explorer(
        draw,
        controls,
        {
            "untouched": {},
            "without channel 0": {"without": "0"},
            "noise of std 0.3": {"sigma": 0.3},
            "2 bits per number": {"bits": "2"},
        },
        "The same image four times: untouched, without a channel, with noise on its latent, with "
        "its latent rounded to four levels per number. Error maps run from dark (none) to yellow "
        "(a quarter of the range of colours, or more).",
        "Four strips of image, latent, reconstruction and error map. Untouched, the error map is "
        "almost dark; in the other three it lights up.",
        columns=2,
    )


# -- bits ------------------------------------------------------------------------------------------

Points = Sequence[tuple[float, float]]  # (bits per image, PSNR in dB)


@torch.no_grad()
def rate_and_quality(
    tokenizer: ConvTokenizer, images: Tensor, seed: int = 0
) -> tuple[float, float]:
    """(KL in bits per image, PSNR in dB of decoded draws) of a tokenizer on (B, 3, H, W).

    Of one with codes the first number is infinite: a code says exactly where it is.
    """
    mean, std = tokenizer.eval().moments(images.to(tokenizer.device))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    rebuilt = tokenizer.decode(mean + std * noise.to(mean)).clamp(-1, 1).cpu()
    raw = mean / tokenizer.latent_scale.view(1, -1, 1, 1)
    raw = raw + tokenizer.latent_shift.view(1, -1, 1, 1)
    spread = std / tokenizer.latent_scale.view(1, -1, 1, 1)
    rate = rate_in_bits(raw.flatten(1), spread.flatten(1)) if std.any() else float("inf")
    return rate, psnr(rebuilt, images)


def covered(curves: Mapping[str, Points], count: int = 4) -> list[float]:
    """Numbers of bits, evenly spread, that every curve reaches; none where they do not overlap."""
    low = max(min(bits for bits, _ in points) for points in curves.values())
    high = min(max(bits for bits, _ in points) for points in curves.values())
    if low > high:
        return []
    return [low + (high - low) * k / (count - 1) for k in range(count)]


def equal_bits(curves: Mapping[str, Points], quality_at: Callable[[Points, float], float]) -> None:
    """Shows measured curves of quality over bits, and their difference where both reach."""
    figure, (axis,) = new_figure(width=6, height=3.2)
    for index, (name, points) in enumerate(curves.items()):
        bits, quality = zip(*sorted(points), strict=True)
        line(axis, name, bits, quality, index=index)
    axis.set(xlabel="bits per image", ylabel="PSNR on held-out shapes (dB)", xlim=(0, None))
    axis.legend(frameon=False, loc="lower right")
    first, second = curves
    rows = []
    for bits in covered(curves):
        one, other = (float(quality_at(points, bits)) for points in curves.values())
        rows.append((f"{bits:,.0f}", f"{one:.1f}", f"{other:.1f}", f"{one - other:+.1f}"))
    told = "; ".join(f"{name}: {in_words(points)}" for name, points in curves.items())
    show(
        figure,
        f"Figure 1.11. Quality over bits per image, measured. {told}.",
        f"Two curves. {told}.",
    )
    if not rows:
        print("the curves share no number of bits: nothing can be compared")
        return
    table(["bits per image", f"{first}, dB", f"{second}, dB", "difference"], rows)
    leads = [float(row[-1]) for row in rows]
    said = "the lead changes along the way"
    if min(leads) > 0.2 or max(leads) < -0.2:
        said = f"{first if min(leads) > 0 else second} ahead at all of them"
    elif max(map(abs, leads)) <= 0.2:
        said = "no difference worth the name"
    print(f"at equal bits, one training of each: {said}")
    print(f"{first} against {second}: {min(leads):+.1f} to {max(leads):+.1f} dB")


def in_words(points: Points) -> str:
    """Measured points: 24.0 dB at 1,024 bits, ..."""
    return ", ".join(f"{quality:.1f} dB at {bits:,.0f} bits" for bits, quality in sorted(points))


# -- factors ---------------------------------------------------------------------------------------


def vae_of_diffusers() -> AutoencoderTokenizer:
    """A small autoencoder of diffusers in the kit's wrapping: factor 8, random weights."""
    shape: dict[str, Any] = {
        **{"in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 256},
        **{"block_out_channels": [16] * 4, "norm_num_groups": 8, "layers_per_block": 1},
        **{"down_block_types": ["DownEncoderBlock2D"] * 4},
        **{"up_block_types": ["UpDecoderBlock2D"] * 4},
    }
    return AutoencoderTokenizer("AutoencoderKL", shape).eval()


@torch.no_grad()
def by_size(tokenizers: Mapping[int, Tokenizer], images: Mapping[int, Tensor]) -> None:
    """Shows what tokenizers of several factors give back of drawings of several sizes."""
    smallest, largest = min(images), max(images)
    rows, tiles, labels = [], [], []
    for factor, tokenizer in tokenizers.items():
        for size, some in images.items():
            latent = tokenizer.eval().encode(some.to(tokenizer.device))
            rebuilt = tokenizer.decode(latent).clamp(-1, 1).cpu()
            quality, side = psnr(rebuilt, some), latent.shape[-1]
            ratio = some[0].numel() / latent[0].numel()
            rows.append((factor, f"{size} px", f"{side}×{side}", f"{ratio:g}", f"{quality:.1f}"))
            if size in (smallest, largest):
                tiles += [*some[:2], *rebuilt[:2]]
                labels += [f"{size} px", "", f"factor {factor}: {quality:.1f} dB", ""]
    grid = [torch.nn.functional.interpolate(tile[None], size=(256, 256))[0] for tile in tiles]
    said = "; ".join(f"factor {row[0]}, {row[1]}: {row[-1]} dB" for row in rows)
    show(
        image_grid(torch.stack(grid), 4, labels=labels),
        f"Figure 1.12. Drawings of {smallest} and {largest} pixels, all shown at one size, and "
        "what is given back of them.",
        f"Rows of two drawings and their two reconstructions. {said}.",
    )
    table(["factor", "image", "latent", "colour values per latent number", "PSNR (dB)"], rows)
