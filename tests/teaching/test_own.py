"""``my_ecar.py``: what goes into it, what stays, and what later notebooks get."""

import itertools
import linecache
import sys
from types import SimpleNamespace

import pytest
import torch

from ecar_lab import EcarError
from ecar_lab.teaching import check, own, pieces
from ecar_lab.teaching.check import autoregression
from tests.teaching.variants import KNOWN, solution

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, as a notebook's; not strict."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ECAR_LAB_STRICT", raising=False)
    monkeypatch.delitem(sys.modules, own.MODULE, raising=False)
    return tmp_path


def cell(text, **known):
    """Runs a cell as IPython does: its source is known under a name of its own."""
    name = f"<cell {next(NUMBERS)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = {**KNOWN, **known, "__name__": "__main__"}
    exec(compile(text, name, "exec"), space)
    return space


def test_a_piece_comes_with_what_it_needs_and_a_later_one_takes_its_place():
    space = cell(
        "import math as m\nfrom pathlib import Path\nHALF = 0.5\n\n\n"
        "def helper(x):\n    return m.sqrt(x) * HALF\n\n\n"
        "class Piece:\n    def run(self, x):\n        return helper(x), Path, torch.ones(2)\n"
    )
    own.add(space["Piece"])
    text = own.file().read_text("utf-8")
    for line in ("import math as m", "from pathlib import Path", "import torch", "HALF = 0.5"):
        assert f"\n{line}\n" in text
    own.add(cell("def helper(x):\n    return x  # mine\n")["helper"])
    module, _ = own._module()
    assert module.helper(3) == 3
    assert module.Piece().run(9)[0] == 9
    assert own.file().read_text("utf-8").count("def helper") == 1


def test_what_a_learner_writes_into_the_file_stays():
    own.file().write_text('"""Mine."""\nimport os\n\n# why\nlimit = 3\nif limit:\n    os.sep\n')
    own.add(cell("def one():\n    return 1\n")["one"])
    text = own.file().read_text("utf-8")
    assert "# why\nlimit = 3" in text
    assert "if limit:\n    os.sep" in text
    assert own._module()[0].one() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights = lambda tokens: tokens", "there is no cell"),
        ("def weights(x):\n    return nowhere(x)", "it uses nowhere, which is not defined"),
        ("def weights(x):\n    return x + TENSOR", "TENSOR of the notebook, which is a Tensor"),
        ("def weights(x, y=1 / 2):\n    return x", ""),
        ("def weights(x, y=print('x' * DEPTH)):\n    return x", "the file would raise TypeError"),
    ],
)
def test_what_no_file_can_hold_is_said_and_the_kit_s_stands_in(text, words, capsys):
    space = cell(text, TENSOR=torch.ones(1), DEPTH=1)
    if "DEPTH" in text:
        space["DEPTH"] = "deep"
    exercise = check.Exercise("9.9 a function", lambda attempt: None, own.weights)
    own.add(check.Answer(exercise, space["weights"]))
    said = capsys.readouterr().out
    assert words in said
    if words:
        assert "from ecar_lab.teaching.own import weights" in own.file().read_text("utf-8")


def test_the_kit_s_version_never_takes_the_place_of_a_learner_s(capsys):
    own.add(pieces.Block)
    assert "from ecar_lab.layers import Block" in own.file().read_text("utf-8")
    own.add(cell(solution("2.6"))["Block"])
    assert "class Block" in own.file().read_text("utf-8")
    assert "import Block" not in own.file().read_text("utf-8")
    own.add(pieces.Block)
    assert "class Block" in own.file().read_text("utf-8")
    assert "Block stays as you wrote it before" in capsys.readouterr().out


def test_a_file_that_is_no_python_is_put_aside(here, capsys):
    own.file().write_text("def broken(:\n")
    own.add(cell("def one():\n    return 1\n")["one"])
    assert (here / "my_ecar.broken.py").read_text() == "def broken(:\n"
    assert own._module()[0].one() == 1
    assert "line 1" in capsys.readouterr().out


def test_a_piece_is_the_learner_s_if_it_is_right_and_the_kit_s_with_a_reason_if_not(capsys):
    assert own.piece("Block") is pieces.Block
    assert "there is no my_ecar.py here" in capsys.readouterr().out
    own.add(cell(solution("2.3"))["block_causal_mask"])
    found, missing = own.piece("block_causal_mask", "Block")
    assert found.attempt.__module__ == own.MODULE
    assert missing is pieces.Block
    said = capsys.readouterr().out
    assert "block_causal_mask: your own, from my_ecar.py." in said
    assert "Block: the kit's, because my_ecar.py has none." in said
    text = own.file().read_text("utf-8")
    own.file().write_text(text.replace(">=", "<="))
    assert own.piece("block_causal_mask") is autoregression.block_causal_mask.reference
    assert "is not right: it is transposed" in capsys.readouterr().out
    own.file().write_text("1 / 0\n")
    assert own.piece("Block") is pieces.Block
    assert "my_ecar.py raised ZeroDivisionError" in capsys.readouterr().out
    with pytest.raises(EcarError, match="no piece 'Brick'"):
        own.piece("Brick")


def test_a_module_that_fails_later_becomes_the_kit_s_with_the_weights_it_has():
    class Late(pieces.Block):
        def forward(self, x, *rest):
            raise IndexError("no")

    answer = check.Answer(autoregression.block, Late)
    made = answer(32, 2)
    torch.nn.init.normal_(made.modulation.weight)
    kept = made.modulation.weight
    x, condition = torch.randn(1, 4, 32), torch.randn(1, 192)
    rotary = pieces.rotary_table((2,), 16, 2, torch.device("cpu"))
    found = made(x, condition, rotary)
    assert not answer.in_use
    assert type(made) is pieces.Block
    assert made.modulation.weight is kept
    kit_s = pieces.Block(32, 2)
    kit_s.load_state_dict(made.state_dict())
    torch.testing.assert_close(found, kit_s(x, condition, rotary))
    assert answer(32, 2).__class__ is pieces.Block


def test_weights_are_kept_beside_the_file_and_others_stand_in_where_they_do_not_fit(capsys):
    device = torch.device("cpu")
    model, whose = own.trained(device)
    assert whose == "the shipped weights"
    assert "no my_ecar.safetensors here" in capsys.readouterr().out
    sizes = dict(
        latent_size=4, num_stages=2, window_ends=None, coupling="independent", patch_size=1,
        latent_channels=4, num_classes=10, width=16, num_heads=2, transformer_layers=1,
        head_layers=1,
    )  # fmt: skip
    small = pieces.MyECAR(SimpleNamespace(**sizes))
    own.save_weights(small.state_dict(), sizes)
    model, whose = own.trained(device)
    assert whose == "your own weights"
    torch.testing.assert_close(model.state_dict(), small.state_dict())
    own.save_weights(small.state_dict(), {**sizes, "width": 32})
    assert own.trained(device)[1] == "the shipped weights"
    assert "does not fit your model" in capsys.readouterr().out
