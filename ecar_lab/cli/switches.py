"""From the words of a command line to the fields of a dataclass; tyro does the work."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ecar_lab.errors import EcarError

Switches = TypeVar("Switches")
# One word for one thing on every command line, whatever the function calls it.
ALIASES = {
    "data_root": ["--data"],
    "output": ["--out"],
    "num_inference_steps": ["--steps"],
    "guidance_scale": ["--guidance"],
}
registry = ConstructorRegistry()


@registry.primitive_rule
def json_switch(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Lets a field of type dict[str, Any] be given as JSON: ``--model '{"width": 128}'``."""
    if info.type != dict[str, Any]:
        return None

    def from_text(given: list[str]) -> dict[str, Any]:
        value = json.loads(given[0])
        if not isinstance(value, dict):
            raise ValueError(f"{given[0]} is no JSON object")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=from_text,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def parse(kind: type[Switches], command: str, arguments: list[str], **options: Any) -> Switches:
    """The switches of ``ecar <command>`` as an instance of the dataclass ``kind``.

    Prints the help and exits with 0, or says which switch is wrong and exits with 2.
    """
    return tyro.cli(kind, prog=f"ecar {command}", args=arguments, registry=registry, **options)


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
    hints = get_type_hints(function)
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


def check_positive(**values: int) -> None:
    """Refuses a count below 1.

    Raises:
        EcarError: naming the switch.
    """
    for name, value in values.items():
        if value < 1:
            raise EcarError(f"--{name.replace('_', '-')} is {value}: use 1 or more")
