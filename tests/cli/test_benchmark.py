"""`ecar benchmark`: a table, its numbers in a file, and what it refuses."""

import json
from pathlib import Path

import pytest

from ecar_lab.cli import main as cli
from tests.cli.commands import complaint


def test_the_benchmark_prints_a_table_and_saves_its_numbers(checkpoint, capsys):
    switches = ["--sections", "checkpoint", "--checkpoint", str(checkpoint), "--repeats", "1"]
    assert cli.main(["benchmark", *switches, "--out", "bench/numbers.json"]) == 0
    assert "|" in capsys.readouterr().out
    result = json.loads(Path("bench/numbers.json").read_text())
    assert set(result) >= {"machine", "checkpoint"}
    assert "peers" not in result


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--sections", "weather"], "'weather' is unknown"),
        (["--sections", "weather", "--out", "file.txt/numbers.json"], "file.txt"),
    ],
)
def test_the_benchmark_refuses_what_cannot_work(capsys, switches, words):
    Path("file.txt").write_text("in the way")
    assert words in complaint(capsys, cli.main(["benchmark", *switches]))
