"""What waits is computed in batches: those images together that are made in the same way.

One thread computes. It takes the way of whoever has waited longest, and of all that wait for the
same the first so many; a batch that is not full waits a moment for more. Every image has a
generator of its own, so what it looks like does not depend on the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.pil_utils import numpy_to_pil

from apps.serve.asked import Asked, Limits, Way
from apps.serve.numbers import Numbers
from ecar_lab.device import told_when_memory_is_full
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline

logger = logging.getLogger("uvicorn.error")
MEMORY = "ask for fewer steps, or start the server with a smaller --batch"


@dataclass(eq=False)
class Job:
    """One image that somebody waits for; ``gone``: nobody does any more."""

    asked: Asked
    image: Future = field(default_factory=Future)  # of a PIL image
    since: float = field(default_factory=time.monotonic)
    gone: bool = False


class Batches:
    """The queue and the thread that works it off.

    Attributes:
        alive: whether the thread is at work.
    """

    def __init__(
        self, pipeline: ECARPipeline, dtype: torch.dtype, limits: Limits, numbers: Numbers
    ) -> None:
        self.pipeline, self.dtype, self.limits, self.numbers = pipeline, dtype, limits, numbers
        self._waiting: list[Job] = []
        self._computing: list[Job] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    # -- for those who ask -------------------------------------------------------------------------

    def add(self, asked: Asked) -> Job | None:
        """A job for an image; None where the queue is full."""
        with self._changed:
            if len(self._waiting) >= self.limits.queue:
                return None
            job = Job(asked)
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def leave(self, job: Job) -> None:
        """Nobody waits for it any more: it is not begun, or not gone on with if it was alone."""
        with self._changed:
            job.gone = True
            if job in self._waiting:
                self._waiting.remove(job)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        with self._changed:
            return not self._waiting and not self._computing

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after the batch that it works on; what waits is not computed."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # -- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            try:
                self._compute(jobs)
            except BaseException as error:
                logger.error("a batch could not be computed", exc_info=error)
                self._fail(jobs, error)
            finally:
                with self._changed:
                    self._computing = []

    def _take(self) -> list[Job] | None:
        """The next batch, once it is full or has waited long enough; None at the end.

        Those who were just given an image often ask for the next one, so the wait begins anew with
        the end of a batch.
        """
        free = time.monotonic()
        with self._changed:
            while not self._ended:
                if not self._waiting:
                    self._changed.wait()
                    continue
                first = self._waiting[0]
                jobs = [job for job in self._waiting if job.asked.way == first.asked.way]
                left = max(first.since, free) + self.limits.wait - time.monotonic()
                if len(jobs) < self.limits.batch and left > 0:
                    self._changed.wait(left)
                    continue
                jobs = jobs[: self.limits.batch]
                self._waiting = [job for job in self._waiting if job not in jobs]
                self._computing = jobs
                return jobs
        return None

    def _compute(self, jobs: list[Job]) -> None:
        """Makes the images of a batch; where it fails as a whole, each by itself, so that no image
        fails for another's sake."""
        started = time.monotonic()
        for job in jobs:
            self.numbers.waited.observe(started - job.since)
        try:
            images = self._images(jobs[0].asked.way, jobs)
        except EcarError as error:
            if len(jobs) == 1:
                self._fail(jobs, error)
                return
            for job in jobs:
                if not job.gone:
                    self._compute([job])
            return
        self.numbers.batch.observe(len(jobs))
        self.numbers.computed.observe(time.monotonic() - started)
        for job, image in zip(jobs, images or [None] * len(jobs), strict=True):
            if not job.image.done():
                job.image.set_result(image)

    @told_when_memory_is_full(MEMORY)
    @torch.no_grad()
    def _images(self, way: Way, jobs: list[Job]) -> list[Any]:
        """PIL images; none where all have left on the way."""
        events = self.pipeline.trace(
            [job.asked.class_id for job in jobs],
            generator=[torch.Generator().manual_seed(job.asked.seed) for job in jobs],
            dtype=self.dtype,
            **way.arguments(),
        )
        latent = next(events).latent
        for event in events:
            latent = event.latent
            if all(job.gone for job in jobs):
                return []
        images = self.pipeline.decode(latent)
        return numpy_to_pil(images.permute(0, 2, 3, 1).cpu().numpy())

    @staticmethod
    def _fail(jobs: list[Job], error: BaseException) -> None:
        for job in jobs:
            if not job.image.done():
                job.image.set_exception(error)


def when_done(job: Job, tell: Callable[[], Any]) -> None:
    """Calls ``tell``, on the thread that computes, once there is an image or an error."""
    job.image.add_done_callback(lambda _: tell())
