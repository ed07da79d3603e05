"""Notebook 1: quality over bits, and what was measured of continuous and quantized tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecar_lab.experiments.lab.scores import plus_minus
from ecar_lab.teaching.explore import tokenizer_figures as draw
from ecar_lab.teaching.explore.tokenizer_figures import Points
from ecar_lab.teaching.figures import show, table


def show_bits(
    rounded: Points,
    drawn: tuple[float, float],
    code: tuple[float, float],
    in_use: float,
    codes: int,
) -> None:
    """Figure 1.10: quality over bits per token, each as (bits, PSNR in dB).

    Args:
        in_use: entropy of the codes as they occur, in bits.
    """
    at = dict(rounded)
    show(
        draw.bits_per_token(rounded, drawn, [code], f"{codes} codes"),
        f"Figure 1.10. Quality over bits per token. Codes: {code[1]:.1f} dB with {code[0]:.0f} "
        f"bits ({in_use:.1f} in use). Continuous: {drawn[1]:.1f} dB at a rate of {drawn[0]:.1f} "
        f"bits, rounded to 8 bits {at[8]:.1f} dB, to 12 bits {at[12]:.1f} dB.",
        f"A rising curve for rounding, from {rounded[0][1]:.1f} dB at {rounded[0][0]} bits to "
        f"{rounded[-1][1]:.1f} dB at {rounded[-1][0]} bits; one point for the draw at "
        f"{drawn[0]:.1f} bits, one for codes at {code[0]:.0f} bits and {code[1]:.1f} dB.",
    )


def covered(curves: Mapping[str, Points], count: int = 4) -> list[float]:
    """Numbers of bits, evenly spread, that every curve reaches; none where they do not overlap."""
    low = max(min(bits for bits, _ in points) for points in curves.values())
    high = min(max(bits for bits, _ in points) for points in curves.values())
    if low > high:
        return []
    return [low + (high - low) * k / (count - 1) for k in range(count)]


def show_equal_bits(
    curves: Mapping[str, Points], compared: Sequence[tuple[float, float, float]]
) -> None:
    """Figure 1.11: measured quality over bits per image; a table and the verdict at equal bits.

    Args:
        compared: (bits, quality of the first kind, of the second); empty where curves do not meet.
    """
    told = "; ".join(f"{name}: {in_words(points)}" for name, points in curves.items())
    show(
        draw.quality_over_bits(curves),
        f"Figure 1.11. Quality over bits per image, measured. {told}.",
        f"Two curves. {told}.",
    )
    if not compared:
        print("the curves share no number of bits: nothing can be compared")
        return
    first, second = curves
    leads = [one - other for _, one, other in compared]
    table(
        ["bits per image", f"{first}, dB", f"{second}, dB", "difference"],
        [
            (f"{bits:,.0f}", f"{one:.1f}", f"{other:.1f}", f"{one - other:+.1f}")
            for bits, one, other in compared
        ],
    )
    print(f"at equal bits, one training of each: {verdict(first, second, leads)}")
    print(f"{first} against {second}: {min(leads):+.1f} to {max(leads):+.1f} dB")


def verdict(first: str, second: str, leads: Sequence[float]) -> str:
    """Who is ahead; leads of the first over the second, in dB. Up to 0.2 dB count as none."""
    ahead, behind = max(leads) > 0.2, min(leads) < -0.2
    if ahead and behind:
        return "the lead changes along the way"
    if not ahead and not behind:
        return "no difference worth the name"
    leader, least = (first, min(leads)) if ahead else (second, -max(leads))
    return f"{leader} ahead " + (
        "at all of them" if least > 0.2 else "at some of them, level at the others"
    )


def in_words(points: Points) -> str:
    """Measured points: 24.0 dB at 1,024 bits, ..."""
    return ", ".join(f"{quality:.1f} dB at {bits:,.0f} bits" for bits, quality in sorted(points))


def show_measured_tokens(result: Mapping[str, Any]) -> None:
    """A table of the result of `ecar experiment continuous-vs-quantized`, and what is not equal."""
    columns = ("psnr", "frechet_reconstructed", "frechet_generated")
    rows = [
        (
            *(row["name"], row["tokens"], f"{row['bits']['mean']:.1f}"),
            *(plus_minus(row[name]) for name in columns),
            f"{row['named_right']['mean']:.0%}",
        )
        for row in result["rows"]
    ]
    header = ["tokens", "number", "bits each", "PSNR (dB)", "Frechet distance, reconstructed"]
    table([*header, "generated", "classified correctly"], rows)
    print("Not equal:", *result["confounded"], sep="\n- ")
