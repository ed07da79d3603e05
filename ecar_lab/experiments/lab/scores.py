"""The numbers of an evaluation by name, and how several seeds become one entry of a result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def frechet(result: dict[str, Any]) -> float:
    """The Frechet distance of an evaluation, whatever net it was measured on."""
    return named(result["metrics"], ("frechet_distance", "fid"))


def named(metrics: dict[str, Any], prefixes: Sequence[str]) -> float:
    """The first metric whose name begins with one of ``prefixes``."""
    return next(v for k, v in metrics.items() if k.startswith(tuple(prefixes)))


def named_right(result: dict[str, Any]) -> float | None:
    """Share of generated images that the classifier names as they were asked for."""
    accuracy = result["class_accuracy"]
    return None if accuracy is None else accuracy["generated"]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; None for one value) and the values themselves."""
    values = [float(value) for value in values]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": values}


def half_width(values: Sequence[float], level: float = 0.95) -> float | None:
    """Half the width of the confidence interval of a mean: t · s / √n, n - 1 degrees of freedom.

    None for one value, of which no interval is known.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    quantile = float(t.ppf((1 + level) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / len(values) ** 0.5


def plus_minus(entry: dict[str, Any], digits: int = 2) -> str:
    """``mean ± std`` as a table shows it."""
    text = f"{entry['mean']:.{digits}f}"
    return text if entry["std"] is None else f"{text} ± {entry['std']:.{digits}f}"
