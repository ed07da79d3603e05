"""What one call of a pipeline keeps to itself, so that calls from several threads do not meet."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from ecar_lab.errors import EcarError
from ecar_lab.schema import short

# What other pipelines of diffusers take, and what is said here instead.
ELSEWHERE = {
    **dict.fromkeys(("prompt", "prompts", "label", "y"), "name classes with class_labels"),
    "negative_prompt": "guidance_scale leads away from no class at all",
    **dict.fromkeys(("steps", "num_steps"), "use num_inference_steps"),
    **dict.fromkeys(("timesteps", "sigmas"), "use num_inference_steps and time_power"),
    **dict.fromkeys(("eta", "scheduler"), "use solver"),
    **dict.fromkeys(("callback", "callback_steps"), "use callback_on_step_end"),
    "seed": "use generator=torch.Generator().manual_seed(seed)",
    **dict.fromkeys(("height", "width"), "images have the size that the model was trained on"),
    "latents": "use noise={0: latents}",
    **dict.fromkeys(("clip_skip", "cross_attention_kwargs", "guidance_rescale"), "leave it out"),
}


@dataclass(eq=False)
class Call:
    """What one call of a pipeline keeps to itself while it runs."""

    pipe: DiffusionPipeline
    interrupted: bool = False

    @contextmanager
    def running(self) -> Generator[None]:
        """Lets the pipeline's ``_interrupt`` find this call: from its own thread before all."""
        token = CALLS.set((*CALLS.get(), self))
        RUNNING.append(self)
        try:
            yield
        finally:
            RUNNING.remove(self)
            CALLS.reset(token)


# The calls that the present thread is inside of, outermost first; and those of all threads.
CALLS: ContextVar[tuple[Call, ...]] = ContextVar("calls", default=())
RUNNING: list[Call] = []


def replied(reply: Any, offered: Tensor, latent: Tensor) -> Tensor | None:
    """The latents that a callback wants instead of the run's, if it wants others.

    Args:
        reply: what it returned. offered: a copy of ``latent``, the run's own, which it was given
            and may have changed in place.

    Raises:
        EcarError: it returned neither a dict with nothing but latents nor None.
    """
    if reply is not None and (not isinstance(reply, Mapping) or set(reply) - {"latents"}):
        raise EcarError(
            f"the callback returned {short(reply)}: return the dict that it was given, with other "
            "latents if you like, or nothing"
        )
    wanted = (reply or {}).get("latents", offered)
    return None if wanted is offered and torch.equal(offered, latent) else wanted


def calls_of(pipe: DiffusionPipeline) -> list[Call]:
    """The running call whose callback asks; elsewhere all that run on this pipeline."""
    own = [call for call in CALLS.get() if call.pipe is pipe]
    return own[-1:] or [call for call in list(RUNNING) if call.pipe is pipe]


def interrupt(pipe: DiffusionPipeline, value: bool) -> None:
    """Stops, or lets go on, the call of ``pipe`` that asks for it, or the only one that runs.

    Raises:
        EcarError: none asks for it, and several run.
    """
    calls = calls_of(pipe)
    if value and len(calls) > 1:
        raise EcarError(
            f"{len(calls)} calls of this pipeline run at once: set _interrupt in the callback of "
            "the one that shall stop"
        )
    for call in calls:
        call.interrupted = bool(value)
