"""Notebook 1: what its cells show and ask; its looking glass is in ``looking_glass.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ecar_lab.teaching.explore import tokenizer_figures as draw
from ecar_lab.teaching.explore.bits import (
    covered,
    show_bits,
    show_equal_bits,
    show_measured_tokens,
)
from ecar_lab.teaching.explore.looking_glass import TOP, looking_glass
from ecar_lab.teaching.figures import show, table
from ecar_lab.teaching.question import quiz
from ecar_lab.tokenizers.base import Tokenizer, psnr, psnr_per_image
from ecar_lab.tokenizers.makers import AutoencoderTokenizer
from ecar_lab.tokenizers.study import error_map, ramp
from ecar_lab.viz.colours import LatentColours
from ecar_lab.viz.pictures import enlarge, image_grid, to_pil

# For the cells, beside what is defined here.
__all__ = ["covered", "looking_glass", "show_bits", "show_equal_bits", "show_measured_tokens"]

# -- what is shown ---------------------------------------------------------------------------------


def in_decibels(values: Sequence[float] | Tensor, digits: int = 1) -> list[str]:
    """Labels: ``24.0 dB``."""
    return [f"{float(value):.{digits}f} dB" for value in values]


def show_first_result(
    tokenizer: Tokenizer, images: Tensor, latent: Tensor, rebuilt: Tensor, names: Sequence[str]
) -> None:
    """Figure 1.1: four images, their latents as colours, reconstructions, error maps."""
    colours = LatentColours.of(tokenizer)(latent)
    tiles = [images, torch.nn.functional.interpolate(colours, size=images.shape[-1]), rebuilt]
    tiles.append(ramp(error_map(images, rebuilt), TOP))
    decibels = psnr_per_image(rebuilt, images).tolist()
    labels = [*names, *["latent"] * 4, *in_decibels(decibels), *["error"] * 4]
    show(
        image_grid(torch.cat(tiles), 4, scale=3, labels=labels),
        "Figure 1.1. Images, their latents (4 channels shown as 3 colours), reconstructions with "
        "their PSNR, and error maps: dark is no error, yellow a quarter of the range of colours or "
        "more.",
        f"Four columns: {', '.join(names)}. The latents are coarser and keep the layout. "
        f"Reconstructions look alike; PSNR {', '.join(f'{value:.1f}' for value in decibels)} dB. "
        "Errors sit at the edges of the drawn shapes.",
    )


def show_compression(cases: Sequence[tuple[int, int]], saved: Sequence[tuple[int, float]]) -> None:
    """A table of what a latent saves: image size and factor -> positions, ratio of numbers."""
    rows = [
        (f"{size} px", factor, f"{size // factor}×{size // factor}", f"{positions:,}", f"{ratio:g}")
        for (size, factor), (positions, ratio) in zip(cases, saved, strict=True)
    ]
    table(["image", "factor", "latent", "positions", "colour values per latent number"], rows)


def show_block_costs(
    factors: Sequence[int],
    tokens: Sequence[int],
    attention: Sequence[float],
    rest: Sequence[float],
    width: int,
) -> None:
    """Figure 1.2: FLOPs of one transformer block over the factor, attention and the rest."""
    fewer = [f"{costs[0] / costs[-1]:,.0f}" for costs in (attention, rest)]
    show(
        draw.block_costs(factors, tokens, {"attention": attention, "projections and MLP": rest}),
        f"Figure 1.2. One block of width {width} on a 256-pixel image, one call. "
        f"Factor {factors[-1]} saves {fewer[0]}× of attention and {fewer[1]}× of the rest.",
        f"Two falling lines on logarithmic axes. Attention falls by {fewer[0]}, the rest by "
        f"{fewer[1]}; attention starts above the rest and ends below it.",
    )


def show_loss(losses: Sequence[float]) -> None:
    """Figure 1.3: a training's losses as 25 means, to calm the line."""
    means = torch.tensor(losses).unflatten(0, (25, -1)).mean(1).tolist()
    show(
        draw.loss(means, len(losses)),
        f"Figure 1.3. The loss of your autoencoder over {len(losses):,} steps of 16 images, from "
        f"{means[0]:.2f} to {means[-1]:.2f}.",
        f"One line on a logarithmic axis: the loss goes from {means[0]:.2f} to {means[-1]:.2f}.",
    )


def show_before_and_after(images: Tensor, untrained: Tensor, rebuilt: Tensor) -> None:
    """Figure 1.4: six held-out images, reconstructed before training and after it.

    Args:
        rebuilt: of all ``images``; ``untrained``: of the first six.
    """
    tiles = torch.cat([images[:6], untrained, rebuilt[:6]])
    values = in_decibels(psnr_per_image(tiles[6:], images[:6].repeat(2, 1, 1, 1)))
    show(
        image_grid(tiles, 6, scale=3, labels=["held out"] * 6 + values),
        "Figure 1.4. Held-out images (top), reconstructed before training (middle) and after it "
        f"(bottom). Mean over {len(images)} held-out images: {psnr(rebuilt, images):.1f} dB.",
        "Three rows of six drawn shapes: originals, what the untrained network makes of them, what "
        "the trained one does.",
    )


def show_moments(raw_mean: Tensor, raw_std: Tensor, mean_after: Tensor, std_after: Tensor) -> None:
    """A table of mean and standard deviation, each (C,), a row per channel."""
    columns = torch.stack((raw_mean, raw_std, mean_after.abs(), std_after), 1)
    table(
        ["raw mean", "raw std", "mean after, absolute", "std after"],
        [[f"{value:.2f}" for value in row] for row in columns],
    )


def show_scale(
    raw: Tensor,
    normal: Tensor,
    standard: torch.distributions.Normal,
    t: Tensor,
    shares: Mapping[float, Tensor],
) -> None:
    """Figure 1.5: latents before and after shift and scale, and how much of x_t is data.

    Args:
        shares: standard deviation of the latent -> share of data in the variance over ``t``.
    """
    first, second, third = (f"{share[len(t) // 2]:.0%}" for share in shares.values())
    show(
        draw.scale({"raw": raw, "shifted and scaled": normal}, standard, t, shares),
        f"Figure 1.5. Left: all latent numbers of {len(raw)} images, before and after. Right: how "
        "much of `x_t` is data, for latents of three sizes. At t = 0.5: "
        f"{first}, {second} and {third}.",
        "Left: two histograms and the normal curve; the latent is not normal, but as wide. Right: "
        f"three rising curves; halfway they stand at {first}, {second} and {third}.",
    )


def show_blend(pixels: Tensor, decoded: Tensor, shares: Sequence[float]) -> None:
    """Figure 1.6: from one image to another through pixels and through latents."""
    half = len(shares) // 2
    alike = psnr(decoded[half : half + 1], pixels[half : half + 1])
    show(
        image_grid(
            torch.cat([pixels, decoded]), len(shares), scale=3,
            labels=[f"{share:.0%}" for share in shares] * 2,
        ),
        "Figure 1.6. From automobile to horse through pixels (top) and through latents (bottom); "
        "the numbers are the horse's share. Halfway the two rows agree to "
        f"{alike:.1f} dB.",
        "Two rows of five images. In both the automobile fades out while the horse fades in.",
    )  # fmt: skip


def show_channels(images: Tensor, decoded: Sequence[Tensor]) -> None:
    """Figure 1.7: two images, decoded with all channels and then without each.

    Args:
        decoded: (2, 3, H, W) each: with all channels, without channel 0, 1, 2, 3.
    """
    tiles = torch.cat([part[i : i + 1] for i in (0, 1) for part in decoded])
    values = psnr_per_image(tiles, images.repeat_interleave(len(decoded), 0))
    words = ["all", *(f"without {channel}" for channel in range(len(decoded) - 1))] * 2
    labels = [f"{word}: {said}" for word, said in zip(words, in_decibels(values, 0), strict=True)]
    show(
        image_grid(tiles, len(decoded), scale=3, labels=labels),
        "Figure 1.7. The automobile and the star, decoded with one channel set to 0, its mean over "
        "the training set.",
        "Two rows of five images: with all channels, then without channel 0, 1, 2 and 3. Colours "
        "shift all over the image, fine patterns appear, and the thing can still be made out.",
    )


def show_forgiveness(rows: Sequence[tuple[float, float, float]]) -> None:
    """A table of PSNR with noise on the latent: its deviation, of generated images, of drawn."""
    table(
        ["std of the noise", "generated images: PSNR (dB)", "drawn shapes: PSNR (dB)"],
        [(sigma, f"{made:.1f}", f"{drawn:.1f}") for sigma, made, drawn in rows],
    )


def show_pyramid(
    tokenizer: Tokenizer,
    levels: Sequence[Tensor],
    decoded: Sequence[Tensor],
    pooled: Sequence[Tensor],
) -> None:
    """Figure 1.8: one latent at the size of each stage, decoded, beside the pooled image."""
    colours = LatentColours.of(tokenizer)
    tiles, words = [], []
    for stage, (level, image, wanted) in enumerate(zip(levels, decoded, pooled, strict=True), 1):
        tiles += [enlarge(to_pil(part)[0], 128) for part in (colours(level), image, wanted)]
        side = level.shape[-1]
        words.append(f"stage {stage}: {side}×{side}")
        words += [f"decoded: {psnr(image, wanted):.1f} dB", "pooled image"]
    show(
        image_grid(tiles, 3, labels=words),
        "Figure 1.8. The automobile's latent at the size of each stage, what the decoder makes of "
        "it, and the image pooled to the same size.",
        f"Three rows of three pictures, coarse to fine. {'; '.join(words)}.",
    )


def show_pooled(quality: Mapping[str, Sequence[float]]) -> None:
    """A table of PSNR at full, half and quarter size, a row per tokenizer."""
    table(
        ["held-out shapes, PSNR (dB)", "full size", "half size", "quarter size"],
        [(name, *(f"{value:.1f}" for value in values)) for name, values in quality.items()],
    )


def show_codes(images: Tensor, rebuilt: Tensor, from_codes: Tensor, codes: int) -> None:
    """Figure 1.9: held-out images from continuous tokens and from codes, with error maps."""
    tiles, words = [images[:6]], ["held out"] * 6
    for result in (rebuilt, from_codes):
        tiles += [result[:6], ramp(error_map(images[:6], result[:6]), TOP)]
        words += in_decibels(psnr_per_image(result[:6], images[:6])) + ["error"] * 6
    show(
        image_grid(torch.cat(tiles), 6, scale=3, labels=words),
        f"Figure 1.9. Held-out shapes; from continuous tokens, with the error; from {codes} codes, "
        f"with the error. Mean over {len(images)} images: continuous {psnr(rebuilt, images):.1f} "
        f"dB, {codes} codes {psnr(from_codes, images):.1f} dB.",
        "Five rows of six: drawn shapes, their reconstructions from continuous tokens, the error "
        "maps, then the same two rows for codes. Errors sit mostly at the edges of the shapes, "
        "with codes here and there inside them too.",
    )


def vae_of_diffusers() -> AutoencoderTokenizer:
    """A small autoencoder of diffusers in the kit's wrapping: factor 8, random weights."""
    shape: dict[str, Any] = {
        **{"in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 256},
        **{"block_out_channels": [16] * 4, "norm_num_groups": 8, "layers_per_block": 1},
        **{"down_block_types": ["DownEncoderBlock2D"] * 4},
        **{"up_block_types": ["UpDecoderBlock2D"] * 4},
    }
    return AutoencoderTokenizer("AutoencoderKL", shape).eval()


def show_factors(
    drawings: Mapping[int, Tensor], rebuilt: Mapping[tuple[int, int], Tensor], channels: int = 4
) -> None:
    """Figure 1.12: what tokenizers of several factors give back of drawings of several sizes.

    Args:
        drawings: size -> (B, 3, size, size). rebuilt: (factor, size) -> the same shape.
    """
    rows, tiles, labels = [], [], []
    for (factor, size), images in rebuilt.items():
        side, quality = size // factor, psnr(images, drawings[size])
        ratio = 3 * size**2 / (channels * side**2)
        rows.append((factor, f"{size} px", f"{side}×{side}", f"{ratio:g}", f"{quality:.1f}"))
        if size in (min(drawings), max(drawings)):
            tiles += [*drawings[size][:2], *images[:2]]
            labels += [f"{size} px", "", f"factor {factor}: {quality:.1f} dB", ""]
    grid = [torch.nn.functional.interpolate(tile[None], size=(256, 256))[0] for tile in tiles]
    said = "; ".join(f"factor {row[0]}, {row[1]}: {row[-1]} dB" for row in rows)
    show(
        image_grid(torch.stack(grid), 4, labels=labels),
        f"Figure 1.12. Drawings of {min(drawings)} and {max(drawings)} pixels, all shown at one "
        "size, and what is given back of them.",
        f"Rows of two drawings and their two reconstructions. {said}.",
    )
    table(["factor", "image", "latent", "colour values per latent number", "PSNR (dB)"], rows)


# -- questions -------------------------------------------------------------------------------------


def ask_factor() -> Any:
    """Why small images do not use a factor of 8."""
    return quiz(
        "Why do our 32-pixel images not use the paper's factor of 8?",
        {
            "It cannot be trained on a CPU": "It can: ConvTokenizer takes 2, 4 and 8. Cost is not "
            "the reason.",
            "4×4 positions leave little room for stages": "Three would begin at 1×1, less than one "
            "2×2 patch. (Digits manage two stages on 4×4, with patches of one position.) Factor 2 "
            "leaves 16×16.",
            "Nothing would be lost": "The opposite: with 4 channels, factor 8 keeps one number for "
            "48 colour values.",
        },
        right="4×4 positions leave little room for stages",
    )


def ask_continuous() -> Any:
    """What was measured about continuous tokens."""
    return quiz(
        "What has been measured here about continuous tokens?",
        {
            "They generate better at an equal number of bits": "Bits were equal in Figure 1.11 "
            "only, which is about reconstruction.",
            "They are better at an equal number of tokens": "Yes: on digits, with three seeds, in "
            "reconstruction and generation.",
            "Codes cannot be trained": "The straight-through estimator trains them; you have just "
            "done so.",
        },
        right="They are better at an equal number of tokens",
    )
