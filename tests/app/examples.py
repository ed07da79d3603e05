"""Settings that several tests run: a plain image, and one with everything changed on its way."""

from dataclasses import replace

from apps.shared.settings import Edit, Settings

PLAIN = Settings("cat", 4, (3, 2), (1.5, 2.0))
HALF = tuple("11110000" for _ in range(8))
CHANGED = replace(
    PLAIN,
    solver="heun",
    intervals=((0.0, 1.0), (0.0, 0.5)),
    powers=(1.0, 1.3),
    classes=("cat", "dog"),
    seeds=(4, 9),
    renoise=(True, False),
    edits=(
        Edit(0, ("1000", "0000", "0000", "0000"), "noise", step=1),
        Edit(1, HALF, "copy", class_name="frog", seed=2),
        Edit(1, HALF[::-1], "zero", step=0),
    ),
)
