"""Commands that several tests run, and what is checked of each after it failed or wrote."""

import json
from pathlib import Path

from ecar_lab.cli import main as cli

TINY_TRAINING = [
    *("train", "model", "--preset", "digits", "--dtype", "float32", "--device", "cpu"),
    *("--limit", "64", "--batch-size", "16", "--steps", "4", "--save-every", "2"),
    *("--sample-every", "0", "--warmup-steps", "1", "--tokenizer", "identity", "--model"),
    json.dumps({"width": 32, "num_heads": 2, "transformer_layers": 1, "head_layers": 1}),
]


def sample(checkpoint: Path, *switches: str) -> int:
    return cli.main(
        ["sample", "--checkpoint", str(checkpoint), "--device=cpu", "--dtype=float32", *switches]
    )


def complaint(capsys, status: int) -> str:
    """What a failed command said, once it is sure that it failed as a user's mistake should."""
    err = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert ":" in lines[0].removeprefix("error: "), "the remedy follows a colon"
    return lines[0]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
