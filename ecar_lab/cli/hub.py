"""`ecar push`, `ecar pull`, `ecar space`: a checkpoint on the Hub and back, and the app there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ecar_lab.cli.switches import parse
from ecar_lab.home import APP_CHECKPOINT
from ecar_lab.schema import Text

Repository = Annotated[Text, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]


@dataclass
class PushSwitches:
    """Send a checkpoint to a model repository of the Hub."""

    checkpoint: Annotated[Text, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint folder, a training's, or the name of one that ships."""
    repository: Repository
    """Where to; made if it is not there."""
    results: Text | None = None
    """What `ecar evaluate --out` wrote of this checkpoint: the metrics of its card. Without it
    those that ship or that its training measured."""
    private: bool = False
    """Make a new repository for you alone."""
    into: Text | None = None
    """Write what would be sent into this new folder, and send nothing."""


@dataclass
class PullSwitches:
    """Fetch a checkpoint from the Hub: weights and configurations, no code, no pickles."""

    repository: Repository
    """Where from."""
    folder: Annotated[Text | None, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to, empty or new; by default a folder NAME here."""
    revision: Text | None = None
    """A branch, a tag or a commit; by default the newest."""


@dataclass
class SpaceSwitches:
    """Write a Gradio Space that serves the app: README.md, app.py, requirements.txt."""

    folder: Annotated[Text, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A new folder, to be pushed to a Space as it is."""
    checkpoint: Text = APP_CHECKPOINT
    """The name of one that ships, a folder, or OWNER/NAME on the Hub; it is copied."""
    kit: str | None = None
    """How pip finds the kit there, e.g. 'ecar-lab @ https://ADDRESS.whl'; by default this version,
    from PyPI."""


def push(arguments: list[str]) -> None:
    switches = parse(PushSwitches, "push", arguments)
    from ecar_lab.hub.push import push as send

    done = send(
        switches.checkpoint,
        switches.repository,
        switches.results,
        private=switches.private,
        into=switches.into,
    )
    metrics = f"{done.metrics} metrics in its card" if done.metrics else "no metrics in its card"
    print(f"{len(done.files)} files, {metrics}: {done.address}")


def pull(arguments: list[str]) -> None:
    switches = parse(PullSwitches, "pull", arguments)
    from ecar_lab.hub.pull import pull as fetch

    done = fetch(switches.repository, switches.folder, switches.revision)
    print(f"{switches.repository} at {done.commit[:10]} is in {done.folder}")
    if done.left_out:
        more = f" and {len(done.left_out) - 5} more" if len(done.left_out) > 5 else ""
        print(f"not fetched: {', '.join(done.left_out[:5])}{more}")
    print(f"ecar sample --checkpoint {done.folder} --out grid.png")


def space(arguments: list[str]) -> None:
    switches = parse(SpaceSwitches, "space", arguments)
    from ecar_lab.hub.space import write_space

    files = write_space(switches.folder, switches.checkpoint, switches.kit)
    print(f"{len(files)} files in {switches.folder}: {', '.join(files)}")
    print(f"hf upload OWNER/NAME {switches.folder} . --repo-type space")
