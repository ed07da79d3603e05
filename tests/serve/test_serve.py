"""The server for programs: images as the pipeline makes them, one sentence for all else."""

import base64
import io
import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import PIL.Image
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from apps.serve.batches import Job
from ecar_lab.cli import main as cli
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from tests.browsing import free_port, wait_until
from tests.cli.commands import complaint
from tests.serve.conftest import Served

WAYS = [{"steps": 2}, {"steps": [1, 3], "guidance": [1.0, 2.5]}, {"solver": "heun"}]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(png)), dtype=int)


def numbers(served: Served) -> dict[str, float]:
    """Every number of /metrics, by name and labels."""
    with served.client() as client:
        text = client.get("/metrics").text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def held(served: Served) -> Iterator[list[list[Job]]]:
    """Within the block no batch is computed; those that were begun are listed."""
    gate, begun = threading.Event(), []
    images = served.door.batches._images

    def late(way, jobs):
        begun.append(jobs)
        gate.wait(60)
        return images(way, jobs)

    served.door.batches._images = late
    try:
        yield begun
    finally:
        gate.set()
        served.door.batches._images = images


def answers(served: Served, asked: list[dict]) -> list:
    """What many who ask at the same time are answered."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(served.post, asked))


def test_image_is_the_pipelines_own(served: Served, tiny_pipeline: ECARPipeline):
    asked = {"class": "dog", "seed": 5, "steps": [2, 3], "guidance": 2.0}
    answer = served.post(asked)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    made = tiny_pipeline(["dog"], [2, 3], 2.0, torch.Generator().manual_seed(5)).images[0]
    assert np.abs(pixels(answer.content) - np.asarray(made, dtype=int)).max() <= 1


def test_recipe_makes_the_image_again(served: Served):
    first = served.post({"class": 2, "seed": 7, "format": "json"}).json()
    again = served.post(first["recipe"], headers={"accept": "application/json"}).json()
    assert again["image"] == first["image"]
    assert first["recipe"]["class"] == "frog"
    png = served.post(first["recipe"])
    assert png.content == base64.b64decode(first["image"])
    assert json.loads(png.headers["x-ecar-recipe"]) == first["recipe"]


def test_images_of_a_batch_are_those_made_alone(served: Served):
    asked = [
        {"class": n % 3, "seed": seed, **WAYS[n % len(WAYS)]} for n, seed in enumerate(range(20))
    ]
    alone = [pixels(served.post(one).content) for one in asked]
    with held(served) as begun, ThreadPoolExecutor(len(asked)) as pool:
        waiting = [pool.submit(served.post, one) for one in asked]
        wait_until(lambda: served.door.batches.waiting + len(begun[0] if begun else []) == 20)
        release(served)
        together = [one.result() for one in waiting]
    assert max(map(len, begun)) > 1
    assert all(len({job.asked.way for job in batch}) == 1 for batch in begun)
    assert all(len(batch) <= served.door.batches.limits.batch for batch in begun)
    for one, image in zip(together, alone, strict=True):
        assert np.abs(pixels(one.content) - image).max() <= 1


def test_latents_do_not_depend_on_the_batch(served: Served):
    made = {}
    decode = served.door.batches.pipeline.decode

    def noted(latent):
        made[len(latent)] = latent
        return decode(latent)

    batches = served.door.batches
    from apps.serve.asked import read

    asked = [
        read(json.dumps({"class": n % 3, "seed": n}).encode(), batches.pipeline, "png")
        for n in range(5)
    ]
    try:
        batches.pipeline.decode = noted
        batches._images(asked[0].way, [Job(one) for one in asked])
        batches._images(asked[3].way, [Job(asked[3])])
    finally:
        del batches.pipeline.decode
    torch.testing.assert_close(made[5][3:4], made[1], rtol=0, atol=1e-4)


BAD = [
    (b"", "no JSON"),
    (b"{", "no JSON"),
    (b"\xff", "not UTF-8"),
    (b"[1]", "send an object"),
    (b'{"class": 1, "class": 2}', "there twice"),
    (b'{"class": 1, "seed": NaN}', "no finite number"),
    ({}, "there is no class"),
    ({"class": "unicorn"}, "unicorn"),
    ({"class": 99}, "99"),
    ({"class": True}, "class is True"),
    ({"class": [0, 1]}, "give one name or number"),
    ({"class": 0, "seed": -1}, "seed is -1"),
    ({"class": 0, "seed": 1.5}, r"seed is 1\.5"),
    ({"class": 0, "seed": 10**30}, "seed is 1000"),
    ({"class": 0, "steps": 0}, "step"),
    ({"class": 0, "steps": [1, 2, 3]}, "step"),
    ({"class": 0, "steps": "many"}, "step"),
    ({"class": 0, "steps": 257}, "at most 256"),
    ({"class": 0, "guidance": -1}, "guidance"),
    ({"class": 0, "guidance": {"a": 1}}, "guidance"),
    ({"class": 0, "interval": [0.9, 0.1]}, "interval"),
    ({"class": 0, "interval": 5}, "interval"),
    ({"class": 0, "power": 0}, "power"),
    ({"class": 0, "solver": "magic"}, "magic"),
    ({"class": 0, "format": "gif"}, "png or json"),
    ({"class": 0, "prompt": "a cat"}, "'prompt' is unknown"),
]


@pytest.mark.parametrize(("asked", "words"), BAD)
def test_what_cannot_be_asked_gets_one_sentence(served: Served, asked, words: str):
    answer = served.post(asked)
    assert answer.status_code == 422
    sentence = answer.json()["error"]
    assert re.search(words, sentence)
    assert "\n" not in sentence
    assert len(sentence) < 400


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/generate", {}, 405),
        ("DELETE", "/metrics", {}, 405),
        ("POST", "/generate", {"headers": {"host": "evil.example"}}, 403),
        ("POST", "/generate", {"headers": {"origin": "http://evil.example"}}, 403),
        ("GET", "/health", {"headers": {"host": "evil.example"}}, 403),
        ("POST", "/generate", {"content": b" " * 2_000_000}, 413),
    ],
)
def test_who_may_not_enter_is_told_so(served: Served, method, path, options, status: int):
    with served.client() as client:
        answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_password_is_asked_for(start: Callable[..., Served]):
    served = start(auth=("ann", "secret"))
    asked = {"class": 0}
    assert served.post(asked).status_code == 401
    assert served.post(asked, auth=("ann", "wrong")).status_code == 401
    assert served.post(asked, auth=("ann", "secret")).status_code == 200
    with served.client() as client:
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == 401


def release(served: Served) -> None:
    """Opens the gate of ``held``."""
    cells = served.door.batches._images.__closure__ or ()
    gates = [cell.cell_contents for cell in cells]
    next(one for one in gates if isinstance(one, threading.Event)).set()


def test_full_queue_refuses_and_says_when_to_ask_again(start: Callable[..., Served]):
    served = start(batch=1, queue=2, wait=0.0)
    with held(served) as begun, ThreadPoolExecutor(3) as pool:
        first = pool.submit(served.post, {"class": 0})
        wait_until(lambda: begun)
        others = [pool.submit(served.post, {"class": n}) for n in (1, 2)]
        wait_until(lambda: served.door.batches.waiting == 2)
        refused = served.post({"class": 0})
        assert refused.status_code == 429
        assert "2 images wait already" in refused.json()["error"]
        assert refused.headers["retry-after"] == "1"
        release(served)
        assert [one.result().status_code for one in (first, *others)] == [200] * 3


def test_who_has_left_is_dropped(start: Callable[..., Served]):
    served = start(batch=1, wait=0.0)
    body = b'{"class": 0}'
    head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with held(served) as begun, ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.post, {"class": 0})
        wait_until(lambda: begun)
        address = served.address.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as hasty:
            hasty.sendall(head.encode() + body)
            wait_until(lambda: served.door.batches.waiting == 1)
        wait_until(lambda: served.door.batches.waiting == 0)
        release(served)
        assert first.result().status_code == 200
    assert len(begun) == 1
    assert numbers(served)["ecar_left_total"] == 1


def test_server_that_is_told_to_end_answers_those_who_wait(start: Callable[..., Served]):
    served = start(batch=2, wait=0.0)
    with held(served) as begun, ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(served.post, {"class": 0, "seed": n}) for n in range(5)]
        wait_until(lambda: sum(map(len, begun)) + served.door.batches.waiting == 5)
        served.server.handle_exit(signal.SIGTERM, None)
        refused = served.post({"class": 0})
        assert refused.status_code == 503
        assert "closing" in refused.json()["error"]
        with served.client() as client:
            assert client.get("/health").status_code == 503
        release(served)
        assert [one.result().status_code for one in waiting] == [200] * 5
    served.thread.join(60)
    assert not served.thread.is_alive()


def test_image_that_cannot_be_made_costs_no_other(start: Callable[..., Served], monkeypatch):
    served = start(batch=8, wait=0.2)
    trace = served.door.batches.pipeline.trace

    def picky(labels, *args, **kwargs):
        if "generator" in kwargs and isinstance(kwargs["generator"], list) and 1 in labels:
            raise EcarError("this latent is not finite: use less guidance")
        return trace(labels, *args, **kwargs)

    monkeypatch.setattr(served.door.batches.pipeline, "trace", picky)
    found = answers(served, [{"class": n} for n in (0, 1, 2)])
    assert [one.status_code for one in found] == [200, 422, 200]
    assert found[1].json()["error"] == "this latent is not finite: use less guidance"


def test_fault_of_the_kit_is_one_sentence_and_no_end(start: Callable[..., Served], monkeypatch):
    served = start()
    with monkeypatch.context() as patch:
        patch.setattr(served.door.batches.pipeline, "decode", lambda latent: 1 / 0)
        answer = served.post({"class": 0})
    assert answer.status_code == 500
    assert "could not be made" in answer.json()["error"]
    assert served.post({"class": 0}).status_code == 200


def test_numbers_count_what_was_done(start: Callable[..., Served]):
    served = start(batch=4, wait=0.05)
    with served.client() as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.head("/metrics").status_code == 200
    answers(served, [{"class": 0, "seed": n} for n in range(6)])
    served.post({"class": "unicorn"})
    found = numbers(served)
    assert found["ecar_requests_total /generate 200"] == 6
    assert found["ecar_requests_total /generate 422"] == 1
    assert found["ecar_batch_images_sum"] == 6
    assert found["ecar_waiting"] == 0


def test_switches_reach_the_server(monkeypatch: pytest.MonkeyPatch):
    served = {}
    monkeypatch.setattr("apps.serve.server.launch", lambda **given: served.update(given))
    monkeypatch.setattr("ecar_lab.cli.serve.leave", lambda: None)
    assert cli.main(["serve", "--checkpoint", "tiny", "--batch", "4", "--queue", "9"]) == 0
    assert served["host"] == "127.0.0.1"
    assert (served["limits"].batch, served["limits"].queue) == (4, 9)


def test_port_that_is_taken_and_a_wait_too_long_are_named(capsys):
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert str(port) in complaint(capsys, cli.main(["serve", "--port", str(port)]))
    assert "wait is 99" in complaint(capsys, cli.main(["serve", "--wait", "99"]))
