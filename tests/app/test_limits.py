"""How much each visitor may ask for, and whose turn it is: on the whole page, tiny checkpoint."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from apps import demo
from apps.server import endings
from apps.server import queue as queues
from apps.server import turns as turning
from apps.server.turns import Left, Turn, Turns, breathe, in_turns, resting
from apps.server.visitors import Shares, network_of
from apps.shared import studio as studios
from apps.shared.once import Once
from apps.shared.settings import Edit, Settings
from apps.shared.work import budget_of, work_of
from ecar_lab.errors import EcarError
from tests.app.page import QUIET
from tests.browsing import free_port

pytestmark = QUIET

LONG = {"data": ["dog", 0, [256, 256], 2.0, "heun", None, None, None, None]}
SHORT = {"data": ["dog", 0, [1, 1], None, None, None, None, None, None]}


@pytest.fixture(scope="module")
def served(tiny_checkpoint) -> Iterator[SimpleNamespace]:
    """A page with its queue, its folders and its address."""
    page, address = demo.launch(tiny_checkpoint, port=free_port(), dtype="float32", block=False)
    guard = page.server.config.loaded_app.app
    generate = next(fn for fn in page.fns.values() if fn.api_name == "generate")
    yield SimpleNamespace(
        address=address, queue=page._queue, folders=guard.folders, fn_index=generate._id
    )
    page.close()


@pytest.fixture
def door(served) -> Iterator[SimpleNamespace]:
    """The same with a client; all jobs that a test leaves are ended."""
    with httpx.Client(base_url=served.address, trust_env=False, timeout=60) as client:
        served.client = client
        yield served
    for event in served.queue.all_events():
        event.alive = False
    for group in served.queue.event_queue_per_concurrency_id.values():
        group.queue.clear()
    wait_until(lambda: not served.queue.running())


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def join(door: SimpleNamespace, session: str, job: dict, **headers: str) -> httpx.Response:
    body = {**job, "fn_index": door.fn_index, "session_hash": session}
    return door.client.post("/gradio_api/queue/join", json=body, headers=headers)


def messages(door: SimpleNamespace, session: str) -> Iterator[dict]:
    """What a session is told until its last job is done; then closes the stream, as a page does."""
    with door.client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as lines:
        for line in lines.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                yield message
                if message["msg"] == "close_stream":
                    return


# -- jobs ------------------------------------------------------------------------------------------


def test_of_many_jobs_a_few_are_taken_and_another_visitor_comes_next(door):
    answers = [join(door, "flood", LONG) for _ in range(40)]
    taken = [one for one in answers if one.status_code == 200]
    assert len(taken) == queues.JOBS_EACH
    refused = answers[-1]
    assert refused.status_code == 429
    assert "you have 12 jobs waiting" in refused.json()["error"]
    assert refused.json()["detail"] == refused.json()["error"]
    wait_until(lambda: door.queue.running())
    assert join(door, "visitor", SHORT).status_code == 200
    last = [m for m in messages(door, "visitor") if m["msg"] == "process_completed"][-1]
    assert last["success"]
    assert [one.session_hash for one in door.queue.running()] == ["flood"]  # its first still runs
    assert len(door.queue.all_events()) == queues.JOBS_EACH


def test_jobs_without_a_session_are_counted_by_address_and_program(door):
    path = "/gradio_api/call/generate"
    answers = [door.client.post(path, json=LONG) for _ in range(14)]
    assert [one.status_code for one in answers] == [200] * 12 + [429] * 2
    other = door.client.post(path, json=SHORT, headers={"User-Agent": "another"})
    said = door.client.get(f"{path}/{other.json()['event_id']}").text
    assert "event: complete" in said


def test_a_client_for_programs_is_told_the_sentence(door, monkeypatch):
    from gradio_client import Client

    monkeypatch.setattr(queues, "JOBS_EACH", 0)
    client = Client(door.address, verbose=False, analytics_enabled=False)
    with pytest.raises(Exception, match="you have 0 jobs waiting, the most there may be"):
        client.predict("dog", api_name="/generate")
    client.close()


def test_many_sessions_of_one_network_have_a_limit_together(door, monkeypatch):
    monkeypatch.setattr(queues, "JOBS_PER_NETWORK", 5)
    answers = [join(door, f"session-{number}", LONG) for number in range(8)]
    assert [one.status_code for one in answers] == [200] * 5 + [429] * 3
    assert "your network has 5 jobs" in answers[-1].json()["error"]
    forged = join(door, "forged", LONG, **{"X-Forwarded-For": "9.9.9.9"})
    assert forged.status_code == 429


@pytest.mark.parametrize("session", ["", "a" * 65, "a<gradio-sep>b", "../x"])
def test_a_session_has_a_plain_name(door, session):
    answer = join(door, session, SHORT)
    assert answer.status_code == 400
    assert "session_hash" in answer.json()["error"]


def test_a_job_whose_sender_left_is_dropped_and_stopped(door, monkeypatch):
    monkeypatch.setattr(queues, "NOT_HEARD", 0.2)
    for _ in range(3):
        assert join(door, "leaver", LONG).status_code == 200
    url = urlsplit(door.address)
    with socket.create_connection((url.hostname, url.port)) as line:
        asked = "GET /gradio_api/queue/data?session_hash=leaver HTTP/1.1"
        line.sendall(f"{asked}\r\nHost: {url.netloc}\r\n\r\n".encode())
        assert b"200 OK" in line.recv(4096)
    wait_until(lambda: not door.queue.all_events())


def test_a_job_sent_while_a_stream_ends_is_answered_when_the_page_knows_of_the_end(door):
    """Else the page would go on listening to a stream that says nothing more."""
    assert join(door, "hasty", SHORT).status_code == 200
    told = messages(door, "hasty")
    while next(told)["msg"] != "close_stream":
        pass
    answers: list[int] = []
    hasty = threading.Thread(target=lambda: answers.append(join(door, "hasty", SHORT).status_code))
    hasty.start()
    wait_until(lambda: door.queue.pending_event_ids_session["hasty"])
    time.sleep(0.2)
    assert not answers
    told.close()
    hasty.join()
    assert answers == [200]
    assert [m["msg"] for m in messages(door, "hasty")][-2:] == ["process_completed", "close_stream"]


def test_a_stream_that_nobody_closes_ends_by_itself(door, monkeypatch):
    monkeypatch.setattr(endings, "NOTED", 0.2)
    assert join(door, "slow", SHORT).status_code == 200
    told = door.client.get("/gradio_api/queue/data?session_hash=slow").text
    assert "close_stream" in told.splitlines()[-2]
    assert join(door, "slow", SHORT).status_code == 200
    assert "close_stream" in [m["msg"] for m in messages(door, "slow")]


def test_a_job_that_nobody_ever_asks_about_is_dropped(door, monkeypatch):
    monkeypatch.setattr(queues, "NEVER_HEARD", 0.2)
    for _ in range(3):
        assert door.client.post("/gradio_api/call/generate", json=LONG).status_code == 200
    wait_until(lambda: not door.queue.all_events())
    wait_until(lambda: not door.queue.pending_messages_per_session)


def test_nobody_cancels_a_job_of_another_session(door):
    event = join(door, "owner", LONG).json()["event_id"]
    asked = {"session_hash": "thief", "fn_index": door.fn_index, "event_id": event}
    answer = door.client.post("/gradio_api/cancel", json=asked)
    assert answer.status_code == 403
    assert event in door.queue.event_ids_to_events
    own = door.client.post("/gradio_api/cancel", json={**asked, "session_hash": "owner"})
    assert own.json() == {"success": True}
    wait_until(lambda: not door.queue.all_events())


# -- turns -----------------------------------------------------------------------------------------


def test_turns_go_to_whoever_was_served_longest_ago():
    shares = Shares()
    ann, bob, eve = ("1", "x", "ann"), ("1", "x", "bob"), ("2", "x", "eve")
    for visitor in (eve, bob, ann):
        shares.serve(visitor)
    assert min([ann, bob, eve], key=shares.rank) == eve  # another network
    assert min([ann, bob], key=shares.rank) == bob
    shares.serve(bob)
    assert min([ann, bob, ("3", "y", "new")], key=shares.rank) == ("3", "y", "new")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        (None, "unknown"),
        ("x", "x"),
    ],
)
def test_an_address_of_the_new_kind_is_a_whole_network(address, network):
    assert network_of(address) == network


def test_a_long_run_lets_a_short_one_go_first_and_then_goes_on(monkeypatch):
    monkeypatch.setattr(turning, "SLICE", 0.0)
    turns, order = Turns(Shares()), []
    begun, waits = threading.Event(), threading.Event()

    def long() -> None:
        order.append("long begins")
        begun.set()
        waits.wait(10)
        wait_until(lambda: turns._waiting)
        breathe()
        order.append("long ends")

    def job(name: str, function: Callable) -> threading.Thread:
        turn = lambda: Turn(turns, ("1", "x", name), lambda: False)  # noqa: E731
        thread = threading.Thread(target=in_turns(function, turn))
        thread.start()
        return thread

    threads = [job("a", long)]
    begun.wait(10)
    threads.append(job("b", lambda: order.append("short")))
    waits.set()
    for thread in threads:
        thread.join(10)
    assert order == ["long begins", "short", "long ends"]
    assert turns._holder is None


def test_a_job_ends_between_two_steps_when_its_sender_has_left():
    turns, gone = Turns(Shares()), []
    turn = Turn(turns, ("1", "x", "a"), lambda: bool(gone))

    def steps() -> Iterator[int]:
        for number in range(9):
            breathe()
            yield number

    shown = in_turns(steps, lambda: turn)()
    assert [next(shown), next(shown)] == [0, 1]
    gone.append(True)
    with pytest.raises(Left, match="its page was closed"):
        next(shown)
    assert turns._holder is None


def test_what_is_made_once_is_waited_for_without_the_model(monkeypatch):
    monkeypatch.setattr(turning, "SLICE", 0.0)
    turns, once, made = Turns(Shares()), Once[str](), []
    asked = threading.Event()

    def make() -> str:
        asked.set()
        wait_until(lambda: turns._waiting)
        breathe()  # the other takes the turn, and waits for this result
        made.append("made")
        return "result"

    results: list[str] = []
    work = lambda: results.append(once.get("key", make))  # noqa: E731
    threads = []
    for name in ("a", "b"):
        turn = Turn(turns, ("1", "x", name), lambda: False)
        threads.append(threading.Thread(target=in_turns(work, lambda turn=turn: turn)))
        threads[-1].start()
        asked.wait(10)
    for thread in threads:
        thread.join(20)
    assert results == ["result", "result"]
    assert made == ["made"]
    with pytest.raises(ZeroDivisionError):
        once.get("broken", lambda: 1 // 0)
    assert once.get("broken", lambda: "mended") == "mended"
    with resting():
        pass  # where nobody gave out turns


# -- work ------------------------------------------------------------------------------------------


def test_a_run_has_a_budget_and_the_sentence_names_it(tiny_pipeline):
    model = tiny_pipeline.model
    dearest = Settings.of(model, "dog", 0, 256, 2.0, solver="heun")
    assert work_of(model, dearest) == budget_of(model)
    dearest.trace_arguments(model)
    copies = tuple(Edit(0, ("1111",) * 4, "copy", None, "cat", seed) for seed in range(32))
    many = replace(dearest, edits=copies)
    with pytest.raises(EcarError, match=r"needs .* GFLOP, with 32 other images .* may take"):
        many.trace_arguments(model)
    with pytest.raises(EcarError, match="100000 flow steps in a stage: use at most 256"):
        replace(dearest, steps=(100000, 1)).trace_arguments(model)


def test_an_image_that_is_copied_often_is_made_once(tiny_pipeline, monkeypatch):
    from apps.shared import settings

    model, runs = tiny_pipeline.model, []
    monkeypatch.setattr(
        settings, "trace", lambda *args, **options: runs.append(1) or tiny_pipeline.trace(**options)
    )
    one = Edit(0, ("1111",) * 4, "copy", None, "cat", 5)
    edits = (*[replace(one, step=step) for step in (None, 1, 0) * 8], replace(one, seed=6))
    made = Settings.of(model, "dog", 0, 2).trace_arguments(model)["edits"]
    assert made == []
    found = replace(Settings.of(model, "dog", 0, 2), edits=edits).trace_arguments(model)["edits"]
    assert len(runs) == 2
    latents = {event.step: event.latent for event in tiny_pipeline.trace(
        **Settings.of(model, "cat", 5, 2).trace_arguments(model)) if event.stage == 0}  # fmt: skip
    for edit, wanted in zip(found, (2, 1, 0), strict=False):
        assert edit.replacement.equal(latents[wanted])


# -- what stays ------------------------------------------------------------------------------------


def test_what_an_open_page_shows_stays(door, monkeypatch):
    monkeypatch.setattr(studios, "KEEP_RUNS", 3)
    monkeypatch.setattr(studios, "FORGET_AFTER", -1.0)
    folders = door.folders
    with door.client.stream("GET", "/gradio_api/heartbeat/reader") as heartbeat:
        assert heartbeat.status_code == 200
        wait_until(lambda: folders._pages["reader"])
        shown = folders.new_run("reader", "generate")
        later = [folders.new_run("reader") for _ in range(2)]
        folders.show("reader", "results", later)
        later += [folders.new_run("reader") for _ in range(10)]
        folders.new_run("other")  # when those who are silent are forgotten
        assert shown.exists()
        assert [folder.exists() for folder in later] == [True] * 2 + [False] * 7 + [True] * 3
        folders.new_run("reader", "generate")
        assert not shown.exists()
    wait_until(lambda: not later[-1].exists())  # the page was closed
    with pytest.raises(EcarError, match="the session has ended"):
        folders.new_run("reader")
    folders.return_to("reader")
    folders.new_run("reader")
