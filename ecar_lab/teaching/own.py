"""The learner's own E-CAR: ``my_ecar.py`` beside the notebooks, which grows exercise by exercise.

    >>> own.add(Attention)  # doctest: +SKIP
    my_ecar.py: Attention saved. Pieces of your own in it: 4.
    >>> Block = own.piece("Block")  # doctest: +SKIP
    Block: your own, from my_ecar.py.

``add`` writes the source of a piece into the file, with the imports it needs, after its check has
passed; ``piece`` hands it to a later notebook, or the kit's version with a sentence that says why.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ecar_lab.errors import EcarError
from ecar_lab.files import load_metadata, load_tensors, output_file, save_tensors
from ecar_lab.teaching import pieces
from ecar_lab.teaching.check import Answer, Exercise, judge
from ecar_lab.teaching.session import _pipeline, is_strict, profile
from ecar_lab.teaching.source import MODULE, Pieces, Unsaved, is_import, origin, split, with_needs

TOPICS = ("autoregression", "model", "training")  # whose exercises go into the file
HEAD = '''"""My E-CAR: the pieces that I wrote in the notebooks.

`own.add` writes them here; adding a name again replaces that piece alone. Edit as you like.
"""
'''


def file() -> Path:
    """``my_ecar.py`` in the folder that the notebook runs in."""
    return Path.cwd() / f"{MODULE}.py"


def weights() -> Path:
    """Where the weights of the learner's trained model lie."""
    return file().with_suffix(".safetensors")


# -- writing ---------------------------------------------------------------------------------------


def add(*found: Any) -> None:
    """Saves functions and classes into ``my_ecar.py``, each in place of an earlier one of its name.

    What a check handed back as the kit's version becomes an import of it, unless the file holds an
    earlier piece of the learner's, which stays. Never raises because of what a piece is: a sentence
    says why it was not saved, and the kit's version is imported.
    """
    there = _read()
    said = [_add(one, there) for one in found]
    with output_file(file()) as fresh:
        fresh.write_text(_text(there), "utf-8")
    own = sum(one.startswith(("def ", "class ", "@")) for one in there.values())
    print(f"{MODULE}.py: {'; '.join(said)}. Pieces of your own in it: {own}.")


def _text(there: Pieces) -> str:
    """The whole file: imports first."""
    imports = sorted({text for text in there.values() if is_import(text)})
    body = [f"\n{text}\n" for text in there.values() if not is_import(text)]
    return "\n".join((HEAD, "\n".join(imports), "", *body)).rstrip("\n") + "\n"


def _add(found: Any, there: Pieces) -> str:
    """Puts one piece among the others; returns what is to be said of it."""
    piece, kit_s = found, None
    if isinstance(found, Answer):
        kit_s = found.exercise.reference
        piece = found.attempt if found.in_use else kit_s
    if origin(piece) == MODULE:
        return f"{_name(kit_s or piece)} is there already"
    name, why = _name(kit_s or piece), "the notebook goes on with that one"
    if not _is_kit_s(piece):
        try:
            fresh = {**there, **with_needs(piece, name)}
            _load(_text(fresh))
        except Unsaved as reason:
            why = str(reason)
        except Exception as error:  # whatever a learner's code may raise
            why = f"the file would raise {type(error).__name__}: {error}"
        else:
            there.clear()
            there.update(fresh)
            return f"{name} saved"
        piece = kit_s
    if name in there and not is_import(there[name]):
        return f"{name} stays as you wrote it before, because {why}"
    if piece is None:
        return f"{name} is not saved, because {why}"
    there[name] = f"from {piece.__module__} import {piece.__name__}"
    there[name] += f" as {name}" if piece.__name__ != name else ""
    return f"{name} is the kit's, because {why}"


def _read() -> Pieces:
    """What the file holds; one that cannot be read is put aside and a new one begun."""
    path = file()
    if not path.is_file():
        return {}
    text = path.read_text("utf-8")
    try:
        return split(text)
    except SyntaxError as error:
        aside = path.with_suffix(".broken.py")
        path.replace(aside)
        print(f"{path.name} is no Python (line {error.lineno}): it is kept as {aside.name}, and a "
              "new one begins.")  # fmt: skip
        return {}


def _name(piece: Any) -> str:
    return piece.__name__.lstrip("_")


def _is_kit_s(piece: Any) -> bool:
    return origin(piece).split(".")[0] == "ecar_lab"


# -- reading ---------------------------------------------------------------------------------------


def piece(*names: str) -> Any:
    """The learner's pieces of these names, or the kit's; one, or several in a tuple.

    Each is checked anew, since the file may have been edited.

    Raises:
        EcarError: there is no piece of that name.
    """
    module, trouble = _module()
    found, notes = [], []
    for name in names:
        exercise = _exercise(name)
        one = getattr(module, name, None)
        if one is None or _is_kit_s(one):
            notes.append(trouble or f"{MODULE}.py has none")
            found.append(exercise.reference)
        elif (verdict := judge(exercise.diagnose, one)).state == "right":
            notes.append("")
            found.append(Answer(exercise, one))
        else:
            if is_strict():
                raise AssertionError(f"{name} in {MODULE}.py: {verdict.sentence}")
            notes.append(f"the one in {MODULE}.py is not right: {verdict.sentence}")
            found.append(exercise.reference)
    mine = [name for name, note in zip(names, notes, strict=True) if not note]
    if mine:
        print(f"{', '.join(mine)}: your own, from {MODULE}.py.")
    for note in dict.fromkeys(filter(None, notes)):
        kit_s = [name for name, why in zip(names, notes, strict=True) if why == note]
        print(f"{', '.join(kit_s)}: the kit's, because {note}.")
    return tuple(found) if len(names) > 1 else found[0]


def _module() -> tuple[ModuleType | None, str]:
    """The learner's file as a module, and what is wrong with it."""
    if not file().is_file():
        return None, f"there is no {MODULE}.py here"
    try:
        module = _load(file().read_text("utf-8"), str(file()))
    except Exception as error:  # whatever a learner's code may raise
        if is_strict():
            raise
        return None, f"{MODULE}.py raised {type(error).__name__}: {error}"
    sys.modules[MODULE] = module
    return module, ""


def _load(text: str, place: str = MODULE) -> ModuleType:
    module = ModuleType(MODULE)
    with torch.random.fork_rng(devices=[]):
        exec(compile(text, place, "exec"), module.__dict__)
    return module


def _exercise(name: str) -> Exercise:
    """The exercise that asks for a piece; one that asks nothing where the notebook gave it."""
    for topic in TOPICS:
        module = import_module(f"ecar_lab.teaching.check.{topic}")
        for one in vars(module).values():
            if isinstance(one, Exercise) and _name(one.reference) == name:
                return one
    if not hasattr(pieces, name):
        raise EcarError(f"there is no piece {name!r}: use a name that a notebook adds")
    return Exercise(name, lambda attempt: None, getattr(pieces, name))


# -- weights ---------------------------------------------------------------------------------------


def save_weights(named: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Writes the weights of the learner's model beside its code, with its sizes."""
    with output_file(weights()) as fresh:
        save_tensors(fresh, named, {"settings": json.dumps(settings)})
    print(f"{weights().name}: {sum(tensor.numel() for tensor in named.values()):,} weights saved")


def trained(device: torch.device) -> tuple[nn.Module, str]:
    """The learner's model with the weights of notebook 6, and in words whose these are.

    Where there are none, or they do not fit, the weights of the shipped digits model stand in.
    """
    shipped, make = _pipeline("digits", device, True, profile()).model, piece("MyECAR")
    why = f"there is no {weights().name} here, which notebook 6 writes"
    if weights().is_file():
        try:
            settings = SimpleNamespace(**json.loads(load_metadata(weights())["settings"]))
            return _filled(make(settings), load_tensors(weights()), device), "your own weights"
        except Exception as error:  # a file of somebody else, a model that was changed since
            if is_strict():
                raise
            why = f"{weights().name} does not fit your model ({str(error).splitlines()[0]})"
    print(f"The shipped digits weights stand in, because {why}.")
    named = shipped.state_dict()
    try:
        model = _filled(make(shipped.config), named, device)
    except Exception:  # the learner's model has other weights, or cannot run
        model = _filled(pieces.MyECAR(shipped.config), named, device)
    return model, "the shipped weights"


def _filled(model: Any, named: dict[str, Tensor], device: torch.device) -> nn.Module:
    """The model with these weights, after it has made one image."""
    model.load_state_dict(named)
    model = model.to(device).eval().requires_grad_(False)
    stages = model.head.stage_embedding.num_embeddings
    label = torch.zeros(1, dtype=torch.long, device=device)
    pieces.generate(model, label, [1] * stages, [1] * stages, torch.Generator().manual_seed(0))
    return model
