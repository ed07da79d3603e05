"""The interface for programs: ``generate``, ``trace`` and ``fork``, for ``gradio_client`` and MCP.

Gradio reads the types from the annotations and the descriptions from the docstrings, so both are
written for callers. (No ``from __future__ import annotations`` here: it reads the return types as
they stand.) Stages count from 0.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gradio as gr

from apps.shared.inline import png_of
from apps.shared.parts import QUEUE, visitor
from apps.shared.picker import Pages
from apps.shared.recipes import Origin, Recipe, check_settings, finished, replay, timings
from apps.shared.settings import MAX_SEED, Settings, number, whole
from apps.shared.stream import Progress
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError
from ecar_lab.interventions import fork_seeds
from ecar_lab.schema import short

MAX_VARIANTS = 9
CLOSED = "the session closed before the image was done: keep the client open until then"


def register(pages: Pages) -> None:
    """Offers the three functions; to be called within the page's ``gr.Blocks``."""
    programs = Programs(pages.first, pages)
    for function in (programs.generate, programs.trace, programs.fork):
        gr.api(function, api_name=function.__name__, **QUEUE)


def takes(method: Callable) -> Callable[[Any], Any]:
    """Lets a method that hands its ``*asked`` on to another be read as if it took what that takes.

    Gradio reads signature, annotations and docstring: parameters, types, defaults and descriptions
    have their one home at ``method``.
    """
    _, *parameters = inspect.signature(method).parameters.values()  # without self
    described = f"Args:{inspect.cleandoc(method.__doc__ or '').partition('Args:')[2]}"

    def told(function: Any) -> Any:
        own = inspect.signature(function)
        kept = [one for one in own.parameters.values() if one.kind is not one.VAR_POSITIONAL]
        function.__signature__ = own.replace(parameters=[*kept, *parameters])
        function.__annotations__ = {
            "return": own.return_annotation,
            **{one.name: one.annotation for one in (*kept[1:], *parameters)},
        }
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{described}"
        return function

    return told


class Programs:
    """The three functions on one studio. Runs of a program wait in the same queue as the page's."""

    def __init__(self, studio: Studio, pages: Pages | None = None) -> None:
        self.studio, self.pages = studio, pages or Pages(studio)
        self.origin = Origin.of(studio)

    def _of(self, checkpoint: Any) -> "Programs":
        """The functions on another checkpoint.

        Raises:
            EcarError: there is none of that name, or it cannot be loaded.
        """
        if checkpoint is None:
            return self
        studio = self.pages.named(checkpoint) if isinstance(checkpoint, str) else None
        if studio is None:
            raise EcarError(
                f"there is no checkpoint {short(checkpoint)} here: use one of "
                f"{', '.join(self.pages.names)}"
            )
        if studio.problem:
            raise EcarError(studio.problem)
        return self if studio is self.studio else Programs(studio, self.pages)

    def _asked(
        self,
        class_name: str | None = None,
        seed: int = 0,
        steps: int | list[int] | None = None,
        guidance: float | list[float] | None = None,
        solver: str | None = None,
        recipe: dict | None = None,
        interval: list | None = None,
        power: float | list[float] | None = None,
        checkpoint: str | None = None,
    ) -> tuple["Programs", Settings | Recipe, list[str]]:
        """Whom a program asks, for what, and what could make a recipe's image another one here.

        Args:
            class_name: a class by name or by number.
            seed: of the noise, 0 to 2147483646.
            steps: flow steps, one number or one per stage. Left out: the model's.
            guidance: how much the class counts, one number or one per stage. Left out: the model's.
            solver: ab2, euler, or heun, which looks twice at every step. Left out: the model's.
            recipe: the recipe of an earlier run, in place of all other arguments.
            interval: [low, high], local times, 0 to 1, between which guidance acts in a stage; one,
                or a list with one per stage. Left out: the model's.
            power: p in the steps' local times (i / K) ** p, one number or one per stage; 1 is even
                steps. Left out: the model's.
            checkpoint: the name of another checkpoint of this server, as its page offers it.
        """
        own = self._of(checkpoint)
        if recipe is not None:
            if class_name is not None:
                raise EcarError("there are a class_name and a recipe: give one of them")
            read = Recipe.from_json(recipe)
            return own, read, read.check(own.studio, own.origin)
        if class_name is None:
            raise EcarError("there is neither class_name nor recipe: give one of them")
        settings = own._settings(class_name, seed, steps, guidance, solver, interval, power)
        return own, settings, []

    @takes(_asked)
    def generate(self, request: gr.Request, *asked: Any) -> tuple[dict, dict]:
        """Generates one image. Returns it as a PNG file, and a record of the run: its settings,
        what each stage took, and its recipe. The record of a run from a recipe says, too, whether
        the image is identical to the recipe's, byte for byte.
        """
        with one_sentence():
            own, wanted, doubts = self._asked(*asked)
            progress = own._finish(wanted, visitor(request))
            return picture(progress), own._record(progress, wanted, doubts)

    @takes(_asked)
    def trace(self, request: gr.Request, *asked: Any) -> Iterator[dict]:
        """Streams how one image comes into being: one object per event, in order, none left out.

        stage and step (0 is the stage's start state), steps of the stage, flow time t, noise level,
        velocity and change of the clean estimate (root mean squares), ms of computing, and image:
        a PNG file of what "shows" names, the decoded image where there is one, else the clean
        estimate's latent as colours. The last event is "done" and brings the run's "record", as
        generate returns it; its image is the finished one.
        """
        with one_sentence():
            own, wanted, doubts = self._asked(*asked)
            sent = 0
            for progress in own._run(wanted, visitor(request)):
                frames = progress.view["frames"]
                while sent < len(frames):
                    frame, sent = frames[sent], sent + 1
                    done = progress.image is not None and sent == len(frames)
                    event = event_of(
                        frame, progress.view["folder"], progress.image if done else None
                    )
                    if done:
                        event["record"] = own._record(progress, wanted, doubts)
                    yield event

    def fork(
        self,
        request: gr.Request,
        class_name: str,
        stage: int,
        seed: int = 0,
        variants: int = 4,
        steps: int | list[int] | None = None,
        guidance: float | list[float] | None = None,
        solver: str | None = None,
        interval: list | None = None,
        power: float | list[float] | None = None,
        checkpoint: str | None = None,
    ) -> tuple[list[dict], list[dict]]:
        """Keeps an image's coarse stages and draws the later ones anew, several times: shows what
        those stages decide. Returns the images as PNG files, and the recipe of each.

        Args:
            class_name: a class by name or by number.
            stage: the first stage that gets other noise, counted from 0, so at least 1.
            seed: of the noise in the stages before.
            variants: how many images, 1 to 9. Their seeds from that stage on follow seed.
            steps: flow steps, one number or one per stage. Left out: the model's.
            guidance: how much the class counts, one number or one per stage. Left out: the model's.
            solver: ab2, euler, or heun, which looks twice at every step. Left out: the model's.
            interval: [low, high], local times, 0 to 1, between which guidance acts in a stage; one,
                or a list with one per stage. Left out: the model's.
            power: p in the steps' local times (i / K) ** p, one number or one per stage; 1 is even
                steps. Left out: the model's.
            checkpoint: the name of another checkpoint of this server, as its page offers it.
        """
        with one_sentence():
            own = self._of(checkpoint)
            base = own._settings(class_name, seed, steps, guidance, solver, interval, power)
            stages = len(base.steps)
            if stages == 1:
                raise EcarError("this model has one stage: a fork needs two or more")
            stage, variants = whole(stage, "stage"), whole(variants, "variants")
            others = ((base.seed + number) % (MAX_SEED + 1) for number in itertools.count(1))
            forks = fork_seeds((base.seed,) * stages, stage, MAX_VARIANTS, others)
            if not 1 <= variants <= MAX_VARIANTS:
                raise EcarError(f"{variants} variants: use 1 to {MAX_VARIANTS}")
            made = []
            for seeds in forks[:variants]:
                variant = dataclasses.replace(base, seeds=seeds)
                made.append(own._finish(variant, visitor(request)))
            recipes = [Recipe.of(progress, own.origin).to_json() for progress in made]
            return [picture(progress) for progress in made], recipes

    def _settings(
        self,
        class_name: Any,
        seed: Any,
        steps: Any,
        guidance: Any,
        solver: Any,
        interval: Any,
        power: Any,
    ) -> Settings:
        """Settings from values of any kind, as JSON may hold them."""
        model = self.studio.pipeline.model
        for name, value, each in (
            ("steps", steps, whole),
            ("guidance", guidance, number),
            ("power", power, number),
        ):
            for one in value if isinstance(value, list) else [value]:
                if value is not None:
                    each(one, name)
        if not isinstance(class_name, str | int):
            raise EcarError(f"class_name is {class_name!r}: give a class by name or by number")
        settings = Settings.of(
            model,
            class_name,
            whole(seed, "seed"),
            steps,
            guidance,
            intervals=interval,
            powers=power,
            solver=solver,
        )
        check_settings(model, settings)
        return settings

    def _run(self, asked: Settings | Recipe, owner: str) -> Iterator[Progress]:
        if isinstance(asked, Recipe):
            return replay(self.studio, asked, owner)
        return self.studio.run(asked, owner)

    def _finish(self, asked: Settings | Recipe, owner: str) -> Progress:
        """The state at the end of the run.

        Raises:
            EcarError: the caller has gone.
        """
        progress = finished(self._run(asked, owner))
        if progress is None:
            raise EcarError(CLOSED)
        return progress

    def _record(
        self, progress: Progress, asked: Settings | Recipe, doubts: list[str]
    ) -> dict[str, Any]:
        """Settings, times and recipe of a finished run."""
        recipe = Recipe.of(progress, self.origin)
        record = {
            **recipe.to_json()["settings"],
            "stages": timings(progress.costs),
            "recipe": recipe.to_json(),
        }
        if isinstance(asked, Recipe):
            assert progress.image is not None
            record["identical"], record["verdict"] = asked.verdict(progress.image, doubts)
            record["warnings"] = doubts
        return record


def picture(progress: Progress) -> dict[str, Any]:
    """The finished image as a file that a client fetches."""
    return served(str(progress.image))


def event_of(frame: dict[str, Any], folder: str, image: Path | None) -> dict[str, Any]:
    """A frame of a view for a program: numbers, one file, whether it is the last, whose file is the
    finished ``image``."""
    numbers = {name: frame[name] for name in frame if name not in ("noisy", "clean", "decoded")}
    shows = "decoded" if "decoded" in frame else "clean"
    words = {"decoded": "decoded", "clean": "clean estimate"}
    file = image or Path(folder) / f"{frame['stage']}-{frame['step']:03d}.png"
    if image is None:
        with suppress(FileNotFoundError):  # the caller has gone
            file.write_bytes(png_of(frame[shows]))
    named = served(str(file))
    return {**numbers, "shows": words[shows], "image": named, "done": image is not None}


def served(path: str) -> dict[str, Any]:
    """A file of the visitor's in Gradio's words."""
    return gr.FileData(path=path, mime_type="image/png").model_dump()


@contextmanager
def one_sentence() -> Generator[None]:
    """What the caller can put right comes as one sentence, without a traceback."""
    try:
        yield
    except EcarError as error:
        raise gr.Error(str(error), print_exception=False) from error
