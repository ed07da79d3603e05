"""`ecar experiment NAME`: measures, then writes JSON, figure and table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ecar_lab.cli.switches import parse, spelled
from ecar_lab.documents import read_text
from ecar_lab.errors import EcarError
from ecar_lab.experiments import EXPERIMENTS, load_experiment
from ecar_lab.schema import Count, Images, Positive, Seed


@dataclass
class ExperimentSwitches:
    """Run one experiment. What was trained or measured before is used again."""

    size: Literal["smoke", "cpu", "gpu"] = "cpu"
    """smoke: seconds, to see that it runs. cpu: minutes on two cores. gpu: full size."""
    preset: str = ""
    """Train on this preset instead of the size's own."""
    steps: Count | None = None
    """Optimizer steps of every training instead of the size's own, where the experiment trains."""
    seconds: Positive | None = None
    """Training time of every arm of an experiment at equal time, instead of the size's own."""
    seeds: list[Seed] | None = None
    """Seeds instead of the size's own."""
    num_samples: Images | None = None
    """Generated images a distance is measured on, instead of the size's own."""
    only: list[str] = field(default_factory=list)
    """Where an experiment has many arms: only those whose name contains one of these texts (and the
    default, which they are compared with)."""
    data: str | None = None
    """Folder that holds the data sets; without it the variable ECAR_DATA is used."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """Precision: auto, float32 or bfloat16."""
    runs: Path = Path("runs/experiments")
    """Folder of trainings and measurements, which are made once."""
    output: Annotated[Path, tyro.conf.arg(aliases=["--out"])] = Path("data/results")
    """Folder for the result: JSON and figure. A result that holds more is not replaced."""


def run(arguments: list[str]) -> None:
    names = [word for word in arguments[:1] if not word.startswith("-")]
    if not names:
        if set(arguments) & {"-h", "--help"}:
            parse(ExperimentSwitches, "experiment", arguments)
        print("usage: ecar experiment NAME [--help | switches]\n")
        width = max(map(len, EXPERIMENTS))
        lines = [f"  {name:<{width}}  {entry.question}" for name, entry in EXPERIMENTS.items()]
        print("\n".join(lines))
        print(f"  {'report':<{width}}  writes the tables of docs/results.md anew from the results")
        return
    if names == ["report"]:
        report(arguments[1:])
        return
    experiment = load_experiment(names[0])
    switches = parse(ExperimentSwitches, f"experiment {names[0]}", arguments[1:])
    check_switches(names[0], switches)
    lab = make_lab(switches)
    from ecar_lab.files import check_folder

    check_folder(switches.output)
    check_folder(switches.runs)
    written_to = switches.output / f"{file_name(names[0], lab.size)}.json"
    check_replaced(written_to, names[0], switches)
    result = {
        "experiment": names[0],
        "question": EXPERIMENTS[names[0]].question,
        "command": command(names[0], arguments[1:]),
        **lab.about(),
        **experiment.run(lab),
    }
    written = write_result(experiment, result, written_to)
    print(experiment.table(result))
    print(f"\n{', '.join(map(str, written))}", file=sys.stderr)


@dataclass
class ReportSwitches:
    """Write the tables of a document anew from the result files they quote."""

    document: Path = Path("docs/results.md")
    """Document with the marks <!-- result NAME --> and <!-- end -->."""
    results: Path = Path("data/results")
    """Folder of the result files."""


def report(arguments: list[str]) -> None:
    from ecar_lab.experiments.lab.report import empty_in, fill, results_in
    from ecar_lab.files import output_file

    switches = parse(ReportSwitches, "experiment report", arguments)
    text = read_text(switches.document, "the document", "name it with --document")
    filled = fill(text, switches.results)
    with output_file(switches.document) as fresh:
        fresh.write_text(filled, encoding="utf-8")
    missing = empty_in(filled)
    print(f"{switches.document}: {len(results_in(text)) - len(missing)} tables")
    if missing:
        print(f"not measured yet: {', '.join(missing)}")


def check_switches(name: str, switches: ExperimentSwitches) -> None:
    """
    Raises:
        EcarError: a switch that would change nothing in this experiment.
    """
    takes = EXPERIMENTS[name].takes
    for switch in ("preset", "steps", "seconds", "seeds", "num_samples", "only"):
        if getattr(switches, switch) and switch not in takes:
            words = ", ".join(map(spelled, takes)) or "--size"
            raise EcarError(
                f"{spelled(switch)} changes nothing in the experiment {name}: leave it out "
                f"(what changes it: {words})"
            )


def make_lab(switches: ExperimentSwitches) -> Any:
    """The lab that the switches describe.

    Raises:
        EcarError: as :func:`size_of`, or an unknown device.
    """
    from ecar_lab.device import pick_device, pick_dtype
    from ecar_lab.experiments.lab.lab import Lab

    size = size_of(switches)
    pick_dtype(pick_device(switches.device), switches.dtype)
    return Lab(
        size,
        switches.runs,
        switches.data,
        switches.device,
        switches.dtype,
        tuple(switches.only),
    )


def size_of(switches: ExperimentSwitches) -> Any:
    """The size that ``--size`` names, changed by further switches.

    Raises:
        EcarError: an unknown preset, a seed named twice.
    """
    from ecar_lab.experiments.lab.sizes import SIZES
    from ecar_lab.presets import get_preset

    changes: dict[str, Any] = {
        "preset": switches.preset and get_preset(switches.preset).name,
        "steps": switches.steps,
        "seconds": switches.seconds,
        "seeds": tuple(switches.seeds or ()),
        "num_samples": switches.num_samples,
    }
    size = replace(SIZES[switches.size], **{name: v for name, v in changes.items() if v})
    if switches.preset and size.preset != SIZES[switches.size].preset:
        size = replace(size, model={}, batch_size=256)  # another preset, another shape
    return size


def check_replaced(file: Path, name: str, switches: ExperimentSwitches) -> None:
    """
    Args:
        file: where the result of the experiment ``name`` is to be written.

    Raises:
        EcarError: a result that lies there holds what the new one would not.
    """
    from ecar_lab.experiments.lab.records import read_record

    if not file.exists():
        return
    remedy = "name another folder with --output, or delete it"
    before = read_record(file, "the result", remedy).get("command")
    try:
        words = shlex.split(before) if isinstance(before, str) else []
        there = parse(ExperimentSwitches, f"experiment {name}", words[3:])
        loses = words[:3] != ["ecar", "experiment", name] or holds_more(there, switches)
    except ValueError:  # no command of this version
        loses = True
    if loses:
        of = f" of `{before}`" if before else ""
        raise EcarError(f"{str(file)!r} holds a result{of} that this one would not: {remedy}")


def holds_more(before: ExperimentSwitches, now: ExperimentSwitches) -> bool:
    """Whether a result has arms or seeds that another has not, or was measured in another way."""
    old, new = size_of(before), size_of(now)
    alike = replace(old, seeds=new.seeds) == new
    arms = not now.only or (bool(before.only) and set(before.only) <= set(now.only))
    return not (alike and arms and set(old.seeds) <= set(new.seeds))


def file_name(name: str, size: Any) -> str:
    """``<experiment>-<size>``, with the preset where it is not the size's own."""
    from ecar_lab.experiments.lab.sizes import SIZES

    usual = size.preset == SIZES[size.name].preset
    return f"{name}-{size.name}" if usual else f"{name}-{size.name}-{size.preset}"


def command(name: str, arguments: Sequence[str]) -> str:
    """The command that repeats the experiment, without this machine's folders."""
    words, skip = [], False
    for argument in arguments:
        switch = argument.split("=")[0]
        if skip or switch in ("--data", "--runs", "--out", "--output"):
            skip = not skip and "=" not in argument
            continue
        words.append(argument)
    return shlex.join(["ecar", "experiment", name, *words])


def write_result(experiment: Any, result: dict, json_file: Path) -> list[Path]:
    """Writes the JSON, then beside it the figure that is drawn from it alone."""
    from ecar_lab.files import output_file, write_json

    picture = json_file.with_suffix(".png")
    write_json(json_file, result)
    with output_file(picture) as fresh:
        experiment.draw(result).savefig(fresh)
    return [json_file, picture]
