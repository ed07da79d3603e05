"""What was recognised as a data set, as one value that can be said in one line.

Whoever opens a set is told its layout: its splits, classes and images, and what was left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EXAMPLES = 3  # names kept for each reason to leave files out
NAMED_REASONS = 4  # the most frequent ones, that the line names
NAMED_CLASSES = 5  # classes without images that the line names


class Skipped:
    """Files that were left out: reason -> how many, and the first of them."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, tuple[str, ...]]] = {}

    def add(self, reason: str, *names: str) -> None:
        count, examples = self.reasons.get(reason, (0, ()))
        self.reasons[reason] = count + len(names), (examples + names)[:EXAMPLES]

    def __str__(self) -> str:
        most = sorted(self.reasons.items(), key=lambda item: -item[1][0])
        words = [
            f"{count} {reason} ({examples[0]}{', ...' if count > 1 else ''})"
            for reason, (count, examples) in most[:NAMED_REASONS]
        ]
        if len(most) > NAMED_REASONS:
            words.append(
                f"{sum(count for _, (count, _) in most[NAMED_REASONS:])} for other reasons"
            )
        return ", ".join(words)


@dataclass(frozen=True)
class Layout:
    """A data set as it was understood.

    Attributes:
        name: what it was opened as. kind: e.g. ``class folders`` or ``parquet files``.
        splits: images of each; None for a stream whose length is not known.
        class_names: of all splits together; a label n means ``class_names[n]`` in each of them.
        without_images: classes that have a folder and no image.
        skipped: reason -> (number of files left out, the first of them).
        labelled: False where the labels were not asked for, and all is one class.
    """

    name: str
    kind: str
    splits: Mapping[str, int | None]
    class_names: tuple[str, ...]
    without_images: tuple[str, ...] = ()
    skipped: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    labelled: bool = True

    @property
    def num_images(self) -> int | None:
        """Of all splits; None where one of them is not known."""
        counts = [count for count in self.splits.values() if count is not None]
        return sum(counts) if len(counts) == len(self.splits) else None

    @property
    def num_skipped(self) -> int:
        """Files left out."""
        return sum(count for count, _ in self.skipped.values())

    def line(self) -> str:
        """One line, e.g. ``pets: 2 splits, 7 classes, 812 images, 3 files skipped: ...``."""
        images = "images not counted" if self.num_images is None else None
        words = [
            _count(len(self.splits), "split"),
            _count(len(self.class_names), "class") if self.labelled else "labels not read",
            images or _count(self.num_images or 0, "image"),
        ]
        if self.without_images:
            names = ", ".join(self.without_images[:NAMED_CLASSES])
            more = ", ..." if len(self.without_images) > NAMED_CLASSES else ""
            words.append(
                f"{_count(len(self.without_images), 'class')} without images: {names}{more}"
            )
        if self.skipped:
            skipped = Skipped()
            skipped.reasons = dict(self.skipped)
            words.append(f"{_count(self.num_skipped, 'file')} skipped: {skipped}")
        return f"{self.name}: {', '.join(words)}"

    def report(self) -> str:
        """Everything, in several lines."""
        counts = {split: "?" if n is None else f"{n:,}" for split, n in self.splits.items()}
        lines = [self.line(), f"{self.kind}; " + ", ".join(f"{s} {n}" for s, n in counts.items())]
        for reason, (count, examples) in self.skipped.items():
            more = ", ..." if count > len(examples) else ""
            lines.append(f"skipped, {reason}: {count} ({', '.join(examples)}{more})")
        return "\n".join(lines)


def _count(number: int, word: str) -> str:
    plural = {"class": "classes"}.get(word, f"{word}s")
    return f"{number:,} {word if number == 1 else plural}"
