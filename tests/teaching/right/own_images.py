import torch


def square_by_middle(width, height):
    half = min(width, height) / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def square_by_cases(width, height):
    if width > height:
        cut = (width - height) / 2
        return cut, 0, width - cut, height
    cut = (height - width) / 2
    return 0, cut, width, height - cut


def square_as_list(width, height):
    side = min(width, height)
    corner = [(each - side) / 2 for each in (width, height)]
    return [*corner, *(each + side for each in corner)]


def rows_in_a_loop(own, known):
    rows = []
    for name in own:
        rows.append(known.index(name) if name in known else len(known))
    rows.append(len(known))
    return rows


def rows_by_table(own, known):
    place = dict(zip(known, range(len(known)), strict=True))
    return (*(place.get(name, len(known)) for name in own), len(known))


def rows_with_no_class(own, known):
    """No class is a name that nobody gives a class."""
    table = [*known, None]
    return [table.index(name if name in known else None) for name in [*own, None]]


def nearest_by_differences(images, known):
    squares = (images[:, None] - known).square().mean(dim=(2, 3, 4))
    found = squares.min(dim=1)
    return found.indices, found.values.sqrt()


def nearest_in_a_loop(images, known):
    numbers, distances = [], []
    for image in images:
        each = (known - image).square().flatten(1).mean(1).sqrt()
        numbers.append(each.argmin())
        distances.append(each.min())
    return torch.stack(numbers), torch.stack(distances)


def nearest_by_norm(images, known):
    gaps = torch.linalg.vector_norm((images[:, None] - known).flatten(2), dim=2)
    values, indices = gaps.sort(dim=1)
    return [indices[:, 0], values[:, 0] / images[0].numel() ** 0.5]


def share_in_loops(made, unseen):
    points = 0.0
    for a in made.tolist():
        for b in unseen.tolist():
            points += 1.0 if a < b else 0.5 if a == b else 0.0
    return points / (len(made) * len(unseen))


def share_by_sign(made, unseen):
    return (0.5 - 0.5 * (made[:, None] - unseen).sign()).mean()


def share_of_both(made, unseen):
    gaps = made[:, None] - unseen
    return ((gaps < 0).float().mean() + (gaps <= 0).float().mean()) / 2


RIGHT = {
    "middle_square": [square_by_middle, square_by_cases, square_as_list],
    "first_rows": [rows_in_a_loop, rows_by_table, rows_with_no_class],
    "nearest": [nearest_by_differences, nearest_in_a_loop, nearest_by_norm],
    "nearer_share": [share_in_loops, share_by_sign, share_of_both],
}
