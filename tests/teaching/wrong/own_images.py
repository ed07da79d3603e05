import torch

from tests.teaching.right.own_images import rows_in_a_loop, square_by_middle


def edges(change):
    """The right edges, changed."""
    return lambda width, height: change(*square_by_middle(width, height), width, height)


def rounded(width, height):
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def longer(width, height):
    side = max(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def rows(new, null):
    """The rows of known classes are right; those of new ones and of no class are as told."""

    def make(own, known):
        return [known.index(name) if name in known else new(known) for name in own] + [null(known)]

    return make


def distances(images, known):
    return (images[:, None] - known).square().flatten(2).mean(2)


def found(number=lambda d, gaps: d.argmin(1), distance=lambda d, gaps: d.min(1).values.sqrt()):
    def nearest(images, known):
        gaps = (images[:, None] - known).flatten(2)
        return number(distances(images, known), gaps), distance(distances(images, known), gaps)

    return nearest


def of_each_known(images, known):
    each = distances(images, known).min(0)
    return each.indices, each.values.sqrt()


def in_place(images, known):
    images -= known[:1]
    return found()(images, known)


def pairs(count):
    def share(made, unseen):
        return count(made[:, None], unseen[None]).double().mean()

    return share


def half(a, b):
    return (a < b) + 0.5 * (a == b)


def at_the_same_place(made, unseen):
    short = min(len(made), len(unseen))
    return half(made[:short], unseen[:short]).mean()


WRONG = {
    "middle_square": [
        (edges(lambda a, b, c, d, w, h: (a, b, c - a, d - b)), "are edges, counted from"),
        (edges(lambda a, b, c, d, w, h: (b, a, d, c)), "x comes first"),
        (edges(lambda a, b, c, d, w, h: (0, 0, c - a, d - b)), "the square in the corner"),
        (edges(lambda a, b, c, d, w, h: (2 * a, 2 * b, w, h)), "the other corner"),
        (edges(lambda a, b, c, d, w, h: (0, 0, w, h)), "the whole picture"),
        (longer, "sticks out"),
        (rounded, "half pixels are rounded off"),
        (edges(lambda a, b, c, d, w, h: (w / 2, h / 2, c - a, d - b)), "the middle and the size"),
        (edges(lambda a, b, c, d, w, h: (a, b)), "return left, top, right and bottom"),
        (edges(lambda a, b, c, d, w, h: None), "is a return missing?"),
        (edges(lambda a, b, c, d, w, h: "abcd"), "return a list"),
        (edges(lambda a, b, c, d, w, h: [(a, b), None, c, d]), "no number"),
    ],
    "first_rows": [
        (lambda own, known: rows_in_a_loop(own, known)[:-1], "the last row is missing"),
        (lambda own, known: [len(known), *rows_in_a_loop(own, known)[:-1]], "no class comes first"),
        (lambda own, known: [*range(len(own)), len(known)], "matched by their place"),
        (
            lambda own, known: [known.index(n) for n in own if n in known] + [len(known)],
            "new classes are left out",
        ),
        (rows(lambda known: 0, len), "as the first class known"),
        (rows(lambda known: -1, len), "by Python's custom"),
        (rows(lambda known: len(known) - 1, lambda known: len(known) - 1), "the last class's row"),
        (lambda own, known: [len(known)] * (len(own) + 1), "every class begins as no class"),
        (
            lambda own, known: [*rows_in_a_loop(own, known)[:-1], len(own)],
            "in the new model's table",
        ),
        (lambda own, known: [*own, "none"], "return a list of ints"),
        (lambda own, known: [*rows_in_a_loop(own, known), 0], "one for each class, and one for"),
    ],
    "nearest": [
        (found(number=lambda d, gaps: d.argmax(1)), "the farthest ones"),
        (of_each_known, "the other way round"),
        (found(number=lambda d, gaps: gaps.mean(2).argmin(1)), "signed differences cancel out"),
        (found(distance=lambda d, gaps: d.min(1).values), "the root is missing"),
        (
            found(distance=lambda d, gaps: (gaps.shape[2] * d.min(1).values).sqrt()),
            "under the root",
        ),
        (
            found(distance=lambda d, gaps: (d.min(1).values / gaps.shape[2]).sqrt()),
            "outside of the root",
        ),
        (found(distance=lambda d, gaps: d.min(1).values * gaps.shape[2]), "the sum of squares"),
        (
            found(
                distance=lambda d, gaps: gaps.abs().mean(2).gather(1, d.argmin(1)[:, None])[:, 0]
            ),
            "mean absolute differences",
        ),
        (found(distance=lambda d, gaps: d.sqrt().mean(1)), "the mean distances to all"),
        (lambda images, known: found()(images, known)[::-1], "are no whole ones"),
        (lambda images, known: found()(images, known)[1], "return two things"),
        (in_place, "changed its argument images in place"),
    ],
    "nearer_share": [
        (lambda made, unseen: 1 - pairs(half)(made, unseen), "the other way round"),
        (pairs(lambda a, b: a < b), "they are left out"),
        (pairs(lambda a, b: a <= b), "they count in full"),
        (
            lambda made, unseen: half(made[:, None], unseen).sum(),
            "the number of pairs",
        ),
        (at_the_same_place, "at the same place"),
        (lambda made, unseen: (made < unseen.mean()).double().mean(), "the mean of the unseen"),
        (lambda made, unseen: (made < unseen.min()).double().mean(), "the nearest unseen one"),
        (lambda made, unseen: 100 * pairs(half)(made, unseen), "a percentage"),
        (lambda made, unseen: torch.tensor([0.5]), "it should be ()"),
    ],
}
