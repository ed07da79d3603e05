"""The queue of jobs: so many of each visitor, in fair order, and none that nobody waits for."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from fastapi import HTTPException
from gradio.context import LocalContext
from gradio.queueing import Event, EventQueue, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import run_coro_in_background

from apps.server.answers import SENTENCES
from apps.server.endings import Endings
from apps.server.sessions import BAD_NAME
from apps.server.turns import Left, Turn, Turns, claimed
from apps.server.visitors import SESSION, Shares, Visitor, visitor_of

MODEL = "model"  # the concurrency group of all that computes with the model
# Jobs that wait or run: of one session, of one network, of all.
JOBS_EACH, JOBS_PER_NETWORK, JOBS = 12, 64, 256
# Jobs begun at the same time, which then take turns: in all, of one network.
RUNNING, RUNNING_PER_NETWORK = 8, 4
# Seconds until a job is dropped that nobody has asked about yet, or nobody does any more.
NEVER_HEARD, NOT_HEARD = 30.0, 3.0


class FairQueue(Queue):
    """Gradio's queue with limits, a fair order, and turns for those that compute."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shares = Shares()
        self.turns = Turns(self.shares)
        self.endings = Endings()
        # Told of every session that asks for a job.
        self.welcome: Callable[[str], None] = lambda session: None
        self.listeners: Counter[str] = Counter()
        # Sessions: when somebody last listened, and since when no job of theirs is left.
        self._heard: dict[str, float] = {}
        self._idle: dict[str, float] = {}

    # -- what comes in -----------------------------------------------------------------------------

    async def push(self, body: Any, request: Any, username: str | None) -> tuple[bool, Any, Any]:
        """
        Raises:
            HTTPException: the session is none, or enough jobs wait already.
        """
        session = body.session_hash
        if session is not None and not SESSION.fullmatch(session):
            raise HTTPException(400, BAD_NAME)
        sentence = self.refusal(visitor_of(session, request.client, request.headers))
        if sentence is None:
            if session is not None:
                self.welcome(session)
                self._jobs_of(session)
            taken = await super().push(body, request, username)
            if session is not None:
                await self.endings.noted(session)
            return taken
        # Gradio's client for programs shows nobody the sentence of a refused request.
        if session is None or "x-gradio-user" not in request.headers:
            raise HTTPException(429, sentence)
        return True, await self._answer(session, sentence), "success"

    def refusal(self, visitor: Visitor) -> str | None:
        """Why this visitor may not have one job more; None: they may."""
        jobs = Counter[tuple[str, ...]]()
        for event in self.all_events():
            other = visitor_of_event(event)
            jobs.update([(), other[:1], other])
        for key, most, whose in (
            (visitor, JOBS_EACH, "you have"),
            (visitor[:1], JOBS_PER_NETWORK, "your network has"),
            ((), JOBS, "all visitors together have"),
        ):
            if jobs[key] >= most:
                return f"{whose} {jobs[key]} jobs waiting, the most there may be: wait for one"
        return None

    def _jobs_of(self, session: str) -> set[str]:
        return self.pending_event_ids_session.setdefault(session, self.endings.jobs_of(session))

    async def _answer(self, session: str, sentence: str) -> str:
        """A job that is over at once, with a sentence."""
        event_id = f"refused-{random.getrandbits(64):x}"
        async with self.pending_message_lock:
            if session not in self.pending_messages_per_session:
                self.pending_messages_per_session[session] = asyncio.Queue()
            self._jobs_of(session).add(event_id)
        said = {"error": sentence, "visible": True, "duration": 10, "title": "Error"}
        self.pending_messages_per_session[session].put_nowait(
            ProcessCompletedMessage(event_id=event_id, output=said, title="Error", success=False)
        )
        await self.endings.noted(session)
        return event_id

    # -- the order ---------------------------------------------------------------------------------

    def all_events(self) -> list[Event]:
        """Jobs that wait, and jobs that run."""
        waiting = [
            one for group in self.event_queue_per_concurrency_id.values() for one in group.queue
        ]
        return waiting + self.running()

    def running(self) -> list[Event]:
        return [event for jobs in self.active_jobs if jobs for event in jobs]

    def create_event_queue_for_fn(self, block_fn: Any) -> None:
        super().create_event_queue_for_fn(block_fn)
        if block_fn.concurrency_id == MODEL:
            self.event_queue_per_concurrency_id[MODEL].concurrency_limit = RUNNING

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The job that is begun next: of each group by fair order, not by time of arrival."""
        groups = list(self.event_queue_per_concurrency_id.items())
        random.shuffle(groups)
        for name, group in groups:
            limit = group.concurrency_limit
            if group.queue and (limit is None or group.current_concurrency < limit):
                event = self._next_of(group) if name == MODEL else group.queue[0]
                if event is not None:
                    group.queue.remove(event)
                    return [event], False, name
        return None

    def _next_of(self, group: EventQueue) -> Event | None:
        busy = [visitor_of_event(one) for one in self.running() if one.concurrency_id == MODEL]
        networks = Counter(visitor[0] for visitor in busy)
        first: dict[Visitor, Event] = {}
        for event in group.queue:
            visitor = visitor_of_event(event)
            if visitor not in busy and networks[visitor[0]] < RUNNING_PER_NETWORK:
                first.setdefault(visitor, event)
        if not first:
            return None
        return first[min(first, key=self.shares.rank)]

    def turn(self) -> Turn:
        """The claim of the job that this thread works for."""
        event = self.event_ids_to_events.get(LocalContext.event_id.get(None) or "")
        if event is None:  # called past the queue
            raise Left
        return Turn(self.turns, visitor_of_event(event), lambda: self.gone(event))

    def claim(self, request: Any) -> AbstractContextManager[None]:
        """The turn of a request that goes past the queue, for as long as it computes."""
        return claimed(self.turns, visitor_of(None, request.client, request.headers))

    def gone(self, event: Event) -> bool:
        """Whether a job was stopped, or nobody waits for it."""
        return self.stopped or not event.alive or event._id not in self.event_ids_to_events

    # -- who listens -------------------------------------------------------------------------------

    def session_of(self, event_id: str) -> str | None:
        """The session that a job's messages go to; None: there is no such job."""
        event = self.event_ids_to_events.get(event_id)
        if event is not None:
            return event.session_hash
        for session, ids in self.pending_event_ids_session.items():
            if event_id in ids:
                return session
        return None

    def start(self) -> None:
        super().start()
        run_coro_in_background(self._drop_the_unheard)

    @contextmanager
    def listening(self, session: str):
        """While somebody takes the messages of a session."""
        self.listeners[session] += 1
        try:
            yield
        finally:
            self.listeners[session] -= 1
            if not self.endings.ended(session):
                self._heard[session] = time.monotonic()

    async def _drop_the_unheard(self) -> None:
        """Ends jobs whose sender has left, and forgets the messages of sessions without jobs."""
        while not self.stopped:
            await asyncio.sleep(0.5)
            self.listeners = +self.listeners
            now, jobs = time.monotonic(), self.all_events()
            for event in jobs:
                session = event.session_hash
                if session in self.listeners or not event.alive:
                    continue
                since, patience = event.enqueue_time, NEVER_HEARD
                if self._heard.get(session, 0.0) > event.enqueue_time:
                    since, patience = self._heard[session], NOT_HEARD
                if now - since > patience:
                    await self.clean_events(event_id=event._id)
            busy = {event.session_hash for event in jobs} | set(self.listeners)
            pending = set(self.pending_messages_per_session)
            self._idle = {one: self._idle.get(one, now) for one in pending - busy}
            self._heard = {one: at for one, at in self._heard.items() if one in pending}
            for session, since in self._idle.items():
                if now - since > NEVER_HEARD:
                    self.pending_messages_per_session.pop(session, None)
                    self.pending_event_ids_session.pop(session, None)

    # -- what goes out -----------------------------------------------------------------------------

    def send_message(self, event: Event, event_message: Any) -> None:
        """Gradio says ``error: null`` of what went wrong outside of our own functions."""
        if isinstance(event_message, ProcessCompletedMessage) and not event_message.success:
            output = event_message.output
            if isinstance(output, dict) and output.get("error") is None:
                output.update(error=SENTENCES[500], visible=True, duration=10)
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)


def visitor_of_event(event: Event) -> Visitor:
    """Who sent a job."""
    own = None if event.session_hash == event._id else event.session_hash
    return visitor_of(own, event.request.client, event.request.headers)
