"""What the Tokenizer tab shows of one picture, as PNG files and JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecar_lab.flow import pyramid
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.tokenizers.base import psnr
from ecar_lab.tokenizers.study import error_map, ramp, round_latent, without_channel
from ecar_lab.viz.colours import STAGE_HUES, LatentColours, decode
from ecar_lab.viz.pictures import to_pil

BITS = tuple(range(1, 9))
EXACT = 119.0  # dB from which two images are called equal
ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("data/results")


# -- views -----------------------------------------------------------------------------------------


class Views:
    """All views of one picture (1, 3, H, W); :meth:`to_json` is what the page gets.

    Raises:
        EcarError: a picture that the tokenizer does not take.
    """

    @torch.no_grad()
    def __init__(
        self,
        pipeline: ECARPipeline,
        colours: LatentColours,
        picture: Tensor,
        title: str,
        folder: Path,
    ) -> None:
        self.pipeline, self.colours, self.folder, self.title = pipeline, colours, folder, title
        self.tokenizer = pipeline.tokenizer
        self.picture = picture
        self.latent = self.tokenizer.encode(picture.to(self.tokenizer.device)).float().cpu()
        self.rebuilt = decode(self.tokenizer, self.latent)
        self.psnr = psnr(picture, self.rebuilt)

    def to_json(self) -> dict[str, Any]:
        """Sections of figures and tables, in order, and the slider of the last one."""
        return {
            "run": self.folder.name,
            "folder": self.folder.as_posix(),
            "title": self.title,
            "sections": [
                self._reconstruction(),
                self._statistics(),
                self._channels(),
                self._stages(),
            ],
            "rounding": self._rounding(),
            "trained": trained_result(ROOT),
        }

    def _figure(
        self, name: str, picture: Tensor, caption: str, alt: str, **more: Any
    ) -> dict[str, Any]:
        file = f"{name}.png"
        to_pil(picture)[0].save(self.folder / file, compress_level=1)
        return {"file": file, "caption": caption, "alt": alt, **more}

    def _reconstruction(self) -> dict[str, Any]:
        error = error_map(self.picture, self.rebuilt)
        largest, mean = 255 * error.max().item(), 255 * error.mean().item()
        side = f"{self.picture.shape[-2]}×{self.picture.shape[-1]} px"
        numbers, values = self.latent[0].numel(), self.picture[0].numel()
        words = (
            f"{decibels(self.psnr)} from {numbers:,} latent numbers instead of {values:,} colour "
            f"values. Error map: dark is no error, the lightest yellow is the largest one here, "
            f"{largest:.0f} of 255 levels; {mean:.1f} levels on average."
        )
        return {
            "title": "Reconstruction",
            "text": words,
            "figures": [
                self._figure(
                    "original", self.picture, f"Original, {side}", f"Original: {self.title}"
                ),
                self._figure(
                    "rebuilt", self.rebuilt, f"Reconstruction, {decibels(self.psnr)}",
                    f"Reconstruction: {self.title}",
                ),
                self._figure(
                    "error",
                    ramp(error, error.max().item()),
                    f"Error, at most {largest:.0f} of 255",
                    f"Error map: {mean:.1f} of 255 levels on average, at most {largest:.0f}",
                ),
            ],
        }  # fmt: skip

    def _statistics(self) -> dict[str, Any]:
        channels, height, width = self.latent.shape[1:]
        rows = [
            [f"{number}", *(f"{value:.2f}" for value in _moments(values))]
            for number, values in enumerate(self.latent[0], 1)
        ]
        rows.append(["all", *(f"{value:.2f}" for value in _moments(self.latent))])
        return {
            "title": "The clean latent",
            "text": (
                f"{channels} channels of {height}×{width}. Over its training images the tokenizer "
                "gives every channel mean 0 and standard deviation 1; a single picture is "
                "somewhere around that."
            ),
            "figures": [
                self._figure(
                    "latent", self.colours(self.latent), "The latent's colours",
                    "The clean latent as colours",
                )
            ],
            "table": {
                "caption": "Statistics of this latent",
                "head": ["Channel", "Mean", "Std", "Least", "Most"],
                "rows": rows,
            },
        }  # fmt: skip

    def _channels(self) -> dict[str, Any]:
        figures = []
        for channel in range(self.latent.shape[1]):
            rebuilt = decode(self.tokenizer, without_channel(self.latent, channel))
            value = psnr(self.picture, rebuilt)
            caption = f"Without channel {channel + 1}"
            note = f"{decibels(value)}, {self.psnr - value:.1f} dB lost"
            figures.append(
                self._figure(
                    f"without-{channel}", rebuilt, caption, f"{caption}: {note}", note=note
                )
            )
        return {
            "title": "What each channel carries",
            "text": "Decoded with one channel set to 0, its mean over the training images.",
            "figures": figures,
        }

    def _stages(self) -> dict[str, Any]:
        schedule = self.pipeline.model.schedule
        latents, decoded = [], []
        levels = pyramid(self.latent, schedule.num_stages, schedule.ratio)
        for stage, level in enumerate(levels):
            rebuilt = decode(self.tokenizer, level)
            small = F.adaptive_avg_pool2d(
                self.picture, (int(rebuilt.shape[-2]), int(rebuilt.shape[-1]))
            )
            side, name = level.shape[-1], f"stage {stage + 1}, {level.shape[-1]}×{level.shape[-1]}"
            look = {
                "hue": STAGE_HUES[stage % len(STAGE_HUES)],
                "share": side / self.latent.shape[-1],
            }
            latents.append(
                self._figure(
                    f"stage-{stage}-latent",
                    self.colours(level),
                    f"Latent, {name}",
                    f"Colours of the clean latent of {name}",
                    **look,
                )
            )
            decoded.append(
                self._figure(
                    f"stage-{stage}-decoded",
                    rebuilt,
                    f"Decoded: {decibels(psnr(small, rebuilt))}",
                    f"Decoded latent of {name}",
                    **look,
                )
            )
        return {
            "title": "What each stage aims at",
            "text": (
                "The clean latent, averaged to the size of every stage, and what the decoder makes "
                "of it, against the original averaged to that size. Each stage of E-CAR learns to "
                "reach its own, from noise or from the stage before."
            ),
            "columns": len(levels),
            "figures": latents + decoded,
        }

    def _rounding(self) -> dict[str, Any]:
        patch, channels = self.pipeline.model.config.patch_size, self.latent.shape[1]
        per_token, numbers = channels * patch**2, self.latent[0].numel()
        tokens = numbers // per_token
        levels = torch.cat([round_latent(self.latent, bits) for bits in BITS])
        steps = []
        for bits, rebuilt in zip(BITS, decode(self.tokenizer, levels).split(1), strict=True):
            value = psnr(self.picture, rebuilt)
            caption = (
                f"{bits} {'bit' if bits == 1 else 'bits'} a number: {2**bits} levels a channel, "
                f"{bits * per_token} bits a token, {bits * numbers:,} bits an image: "
                f"{decibels(value)}"
            )
            steps.append(
                self._figure(
                    f"bits-{bits}", rebuilt, caption, f"Decoded from {bits} bits a number",
                    bits=bits, psnr=round(value, 2),
                )
            )  # fmt: skip
        return {
            "title": "Continuous against quantized",
            "text": (
                f"E-CAR's tokens are continuous: {tokens} tokens of {patch}×{patch} latent pixels "
                f"with {channels} channels, {per_token} numbers each. Here the same latent is "
                "rounded to evenly spaced levels between the least and the most that each channel "
                "has. This is rounding, not a trained VQ: no code book was learned and the decoder "
                "was not told."
            ),
            "continuous": {
                "file": "rebuilt.png",
                "caption": f"Continuous (32-bit numbers): {decibels(self.psnr)}",
                "alt": "Decoded from the continuous latent",
                "psnr": round(self.psnr, 2),
            },
            "steps": steps,
        }


def _moments(values: Tensor) -> tuple[float, float, float, float]:
    """Mean, standard deviation, least and most."""
    return (
        values.mean().item(),
        values.std(correction=0).item(),
        values.min().item(),
        values.max().item(),
    )


def decibels(value: float) -> str:
    """A PSNR in words."""
    return "no difference" if value >= EXACT else f"{value:.1f} dB"


# -- the experiment --------------------------------------------------------------------------------


def trained_result(root: Path) -> dict[str, Any] | None:
    """What was measured where both kinds of tokens were trained for: the largest result that the
    repository holds, as a table with the path to it; None without one."""
    for size in ("gpu", "cpu"):
        path = RESULTS / f"continuous-vs-quantized-{size}.json"
        try:
            result = json.loads((root / path).read_text(encoding="utf-8"))
            measured = ("bits", "psnr", "frechet_generated", "named_right")
            rows = [
                [row["name"], *(_spread(row[name], 100 if name == "named_right" else 1)
                for name in measured)]
                for row in result["rows"]
            ]  # fmt: skip
            runs = len(result["rows"][0]["psnr"]["values"])
            text = (
                f"Trained for it, on {result['size']['preset']}: two tokenizers and two generators "
                f"of one size, mean and standard deviation of {runs} runs, from {path.as_posix()}. "
                "Bits per token are not equal there."
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue
        head = [
            "Tokens",
            "Bits a token",
            "PSNR, dB",
            "Fréchet distance of generated",
            "Named right, %",
        ]
        return {"text": text, "table": {"caption": "Trained result", "head": head, "rows": rows}}
    return None


def _spread(values: dict[str, Any], factor: float) -> str:
    mean, std = factor * float(values["mean"]), factor * float(values["std"])
    if not math.isfinite(mean):
        raise ValueError("no number")
    return f"{mean:.1f} ± {std:.1f}" if std else f"{mean:.0f}"
