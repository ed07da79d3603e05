"""The recipes for more than one machine can be read, and what they call exists."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import parse_args

from ecar_lab.cli import train
from ecar_lab.cli.main import VERBS
from ecar_lab.training.config import ModelTrainConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "recipes"


def scripts() -> dict[str, str]:
    """Every piece of shell in a recipe or on the page, its continued lines joined."""
    sky = yaml.safe_load((RECIPES / "sky.yaml").read_text("utf-8"))
    page = (ROOT / "docs" / "scale.md").read_text("utf-8")
    found = {"slurm.sh": (RECIPES / "slurm.sh").read_text("utf-8")}
    found |= {f"sky.yaml, {part}": sky[part] for part in ("setup", "run")}
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    found |= {f"scale.md, block {n}": block for n, block in enumerate(blocks)}
    return {name: text.replace("\\\n", " ") for name, text in found.items()}


def words_of(text: str) -> list[list[str]]:
    """The words of every line that calls the kit, without what Slurm puts before it."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if {"ecar", "ecar_lab.cli"} & set(words)]


@pytest.mark.parametrize("name", [name for name, text in scripts().items() if words_of(text)])
def test_commands_of_recipes_exist(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "check_folder", lambda folder: None)
    for words in words_of(scripts()[name]):
        if "torchrun" in words:
            launcher = [re.sub(r"^\$\w+$", "2", word) for word in words]
            parsed = parse_args(launcher[launcher.index("torchrun") + 1 :])
            assert (parsed.module, parsed.training_script) == (True, "ecar_lab.cli")
        start = next(n for n, word in enumerate(words) if word in ("ecar", "ecar_lab.cli"))
        called = words[start + 1 :]
        if called[:2] == ["train", "model"]:
            train.read_config(ModelTrainConfig, called[2:])
        else:
            assert called[0] in VERBS


def test_recipe_of_skypilot_says_what_the_kit_needs():
    recipe = yaml.safe_load((RECIPES / "sky.yaml").read_text("utf-8"))
    known = {"name", "resources", "num_nodes", "workdir", "file_mounts", "setup", "run"}
    assert set(recipe) == known
    assert (ROOT / "requirements.lock").is_file()
    output = re.search(r"--output (\S+)", recipe["run"])
    data = re.search(r"--data (\S+)", recipe["run"])
    assert output is not None
    assert data is not None
    for path in (output[1], data[1]):  # what outlives the machines
        assert any(path.startswith(mount) for mount in recipe["file_mounts"])
