"""From the words of a command line to the fields of a dataclass; tyro does the work."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ecar_lab import schema
from ecar_lab.documents import loads
from ecar_lab.errors import EcarError

Switches = TypeVar("Switches")
# One word for one thing on every command line, whatever the function calls it.
ALIASES = {
    "data_root": ["--data"],
    "output": ["--out"],
    "num_inference_steps": ["--steps"],
    "guidance_scale": ["--guidance"],
    "guidance_interval": ["--interval"],
    "time_power": ["--power"],
}
registry = ConstructorRegistry()


@registry.primitive_rule
def plain_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Numbers in the digits 0 to 9 only: ``int("٣")`` is 3."""
    if info.type not in (int, float):
        return None
    read: Callable[[str], int | float] = (
        schema.read_whole if info.type is int else schema.read_number
    )
    kinds = int if info.type is int else (int, float)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=info.type.__name__.upper(),
        instance_from_str=lambda given: read(given[0]),
        is_instance=lambda value: isinstance(value, kinds) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@registry.primitive_rule
def json_switch(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Lets a field of type dict[str, Any] be given as JSON: ``--model '{"width": 128}'``."""
    if info.type != dict[str, Any]:
        return None

    def from_text(given: list[str]) -> dict[str, Any]:
        value = loads(given[0])
        if not isinstance(value, dict):
            raise ValueError(f"{schema.short(given[0])} is no JSON object")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=from_text,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def parse(kind: type[Switches], command: str, arguments: list[str], **options: Any) -> Switches:
    """The switches of ``ecar <command>`` as an instance of the dataclass ``kind``, checked against
    the annotations of its fields. Prints the help and exits with 0.

    Raises:
        EcarError: a switch that is unknown, lacks its value or has a wrong one.
    """
    for before, word in itertools.pairwise([command, *arguments]):
        if not word or re.fullmatch("--[a-z-]+=", word):  # a variable of the shell that is not set
            name = word.rstrip("=") or (before if before.startswith("--") else "an argument")
            raise EcarError(f"{name} is empty: give it a value, or leave it out")
    hints = schema.hints_of(kind)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            switches = tyro.cli(
                kind, prog=f"ecar {command}", args=arguments, registry=registry, **options
            )
        schema.check_values(hints, vars(switches), spelled)
        schema.check_texts(vars(switches), spelled)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise complaint(stop, said.getvalue(), command) from None
    sys.stderr.write(said.getvalue())
    return switches


def spelled(name: str) -> str:
    """A field as its switch."""
    return f"--{name.replace('_', '-')}"


def complaint(stop: SystemExit, said: str, command: str) -> EcarError:
    """One sentence for what tyro printed before it gave up, or for what a constructor raised."""
    cause = stop.__context__
    while cause is not None:
        if isinstance(cause, EcarError):
            name = re.match("([a-z_]+)(?: is |: )", str(cause))
            return EcarError(
                f"{spelled(name[1])}{str(cause)[name.end(1) :]}" if name else str(cause)
            )
        cause = cause.__context__
    if "Missing from " in said:  # then each name, and deeper what it is for
        listed = said.partition("For full helptext")[0]
        names = re.findall(r"^[│| ] {5}(\S+)", listed, re.MULTILINE)
        return EcarError(
            f"{' and '.join(names)} must be given: `ecar {command} --help` lists the switches"
        )
    lines = [line.strip().strip("│|").strip() for line in said.splitlines()[1:]]  # no title
    is_text = [bool(re.search("\\w", line)) and line[:1] not in "╭+" for line in lines]
    paragraphs = itertools.groupby(zip(is_text, lines, strict=True), key=lambda entry: entry[0])
    first = next((list(group) for text, group in paragraphs if text), [])
    text = " ".join(line for _, line in first).rstrip(".").removeprefix("Error parsing ")
    text = f"{text[:1].lower()}{text[1:]}".replace(": ", " ").replace(". Expected", ", expected")
    near = re.search("Perhaps you meant:\\s+(--[a-z-]+)", "\n".join(lines))
    hint = f"perhaps you meant {near[1]}, " if near else ""
    return EcarError(f"{schema.cut(text, 300)}: {hint}`ecar {command} --help` lists the switches")


def parse_call(
    function: Callable[..., Any],
    command: str,
    arguments: list[str],
    *,
    leave_out: Collection[str] = (),
    further: type = object,
) -> dict[str, Any]:
    """Keyword arguments for ``function``: each of its parameters is a switch.

    Defaults come from its signature and help from its docstring, so that both have one home.

    Args:
        leave_out: parameters that only Python callers need.
        further: a dataclass of switches that the command has beside those of the function.
    """
    hints = schema.hints_of(function)
    doc = docstring_parser.parse(function.__doc__ or "")
    said = {
        name: (param.description or "").replace("``", "")
        for param in doc.params
        for name in param.arg_name.replace(" ", "").split(",")
    }
    fields = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in leave_out:
            continue
        about = tyro.conf.arg(help=said.get(name, ""), aliases=ALIASES.get(name))
        has_default = parameter.default is not parameter.empty
        default = parameter.default if has_default else dataclasses.MISSING
        kind = Annotated[hints[name], about]  # ty: ignore[invalid-type-form]
        fields.append((name, kind, dataclasses.field(default=default)))
    whole = dataclasses.make_dataclass("Switches", fields, bases=(further,), kw_only=True)
    switches = parse(whole, command, arguments, description=doc.short_description)
    return dict(vars(switches))


def take(arguments: list[str], switch: str) -> tuple[str | None, list[str]]:
    """The value of ``--switch VALUE`` or ``--switch=VALUE``, and the arguments without it.

    Raises:
        EcarError: the switch is the last word.
    """
    rest, value = [], None
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, given = argument.partition("=")
        if name != switch:
            rest.append(argument)
        elif (value := given if equals else next(remaining, None)) is None:
            raise EcarError(f"{switch} has no value: give it after the switch")
    return value, rest
