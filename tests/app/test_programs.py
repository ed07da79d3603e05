"""The interface for programs: a real server, a real client, on a pipeline with random weights."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from apps.shared import programs
from apps.shared.picker import Pages
from apps.shared.recipes import pixels_of
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.cli import main as cli
from tests.app.page import QUIET
from tests.browsing import free_port

pytestmark = QUIET


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    with gr.Blocks(analytics_enabled=False) as page:
        programs.register(Pages(studio))
    gr.set_static_paths([studio.folders.root])
    page.queue()
    port = free_port()
    _, url, _ = page.launch(
        server_port=port, prevent_thread_lock=True, quiet=True, run_history=False, _frontend=False
    )
    yield url
    page.close()


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory):
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("downloads")
    return Client(address, verbose=False, analytics_enabled=False, download_files=folder)


def generate(client, *args, **options):
    path, record = client.predict(*args, **options, api_name="/generate")
    return Path(path), record


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_generate_gives_the_image_that_the_pipeline_makes(client, tiny_pipeline, solver):
    path, record = generate(client, "dog", 3, [3, 2], [2.0, 1.5], solver)
    expected = tiny_pipeline(
        ["dog"],
        [3, 2],
        [2.0, 1.5],
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        solver=solver,
    ).images[0]
    with Image.open(path) as image:
        assert image.format == "PNG"
        np.testing.assert_allclose(np.asarray(image), 255 * expected, atol=0.51)
    assert record["class_name"] == "dog"
    assert record["seed"] == 3
    assert record["steps"] == [3, 2]
    assert [stage["latent_size"] for stage in record["stages"]] == [4, 8]
    assert all(stage["flow_head_ms"] > 0 for stage in record["stages"])


def test_what_is_left_out_is_the_models_own_and_a_class_may_be_a_number(client, tiny_pipeline):
    path, record = generate(client, "1")
    model = tiny_pipeline.model
    assert record["class_name"] == "dog"
    assert record["steps"] == model.inference_steps()
    assert record["guidance"] == model.guidance()
    assert record["solver"] == model.solver() == "ab2"
    assert pixels_of(path) == pixels_of(generate(client, "dog", 0)[0])
    assert pixels_of(path) != pixels_of(generate(client, "dog", 1)[0])


def test_a_program_may_name_interval_and_grid(client, tiny_pipeline):
    intervals = [[0.0, 1.0], [0.0, 0.4]]
    path, record = generate(client, "dog", 3, 2, 3.0, interval=intervals, power=[1.5, 1.2])
    expected = tiny_pipeline(
        ["dog"],
        2,
        3.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        guidance_interval=intervals,
        time_power=[1.5, 1.2],
    ).images[0]
    with Image.open(path) as image:
        np.testing.assert_allclose(np.asarray(image), 255 * expected, atol=0.51)
    assert (record["intervals"], record["powers"]) == (intervals, [1.5, 1.2])
    for other in ({"power": [1.5, 1.2]}, {"interval": intervals}):
        assert pixels_of(path) != pixels_of(generate(client, "dog", 3, 2, 3.0, **other)[0])
    again, checked = generate(client, recipe=record["recipe"])
    assert pixels_of(again) == pixels_of(path)
    assert checked["identical"] is True


def test_a_recipe_alone_gives_the_image_again(client):
    path, record = generate(client, "frog", 8, [2, 4], 1.0)
    recipe = json.loads(json.dumps(record["recipe"]))
    again, checked = generate(client, recipe=recipe)
    assert pixels_of(again) == pixels_of(path)
    assert checked["identical"] is True
    assert checked["warnings"] == []
    recipe["settings"]["seed"] = 9
    _, other = generate(client, recipe=recipe)
    assert other["identical"] is False
    assert "Not identical" in other["verdict"]


def test_trace_streams_every_event_in_order(client, studio):
    events = list(client.submit("cat", 5, [3, 2], 2.0, api_name="/trace"))
    assert [(event["stage"], event["step"]) for event in events] == [
        *((0, step) for step in range(4)),
        *((1, step) for step in range(3)),
    ]
    settings = Settings.of(studio.pipeline.model, "cat", 5, [3, 2], 2.0)
    for event, traced in zip(events, studio.trace(settings), strict=True):
        assert event["t"] == pytest.approx(traced.t, abs=1e-3)
        if traced.step:
            assert event["velocity"] == pytest.approx(traced.velocity_norm.item(), abs=1e-4)
    sizes = {"clean estimate": [4, 8], "decoded": [4, 8]}
    for event in events:
        with Image.open(event["image"]) as image:
            assert image.format == "PNG"
            assert image.width == sizes[event["shows"]][event["stage"]]
    assert {event["shows"] for event in events if event["step"] == event["steps"]} == {"decoded"}
    assert [event["done"] for event in events] == [False] * 6 + [True]
    path, record = generate(client, "cat", 5, [3, 2], 2.0)
    assert pixels_of(events[-1]["image"]) == pixels_of(path)
    assert events[-1]["record"]["recipe"] == record["recipe"]


def test_fork_keeps_the_early_stages_and_draws_the_later_ones_anew(client, studio):
    files, recipes = client.predict(
        "cat", stage=1, seed=6, variants=3, steps=[3, 2], api_name="/fork"
    )
    base = generate(client, "cat", 6, [3, 2])[0]
    assert len({pixels_of(file) for file in (base, *files)}) == 4

    def ends(settings: Settings) -> list[torch.Tensor]:
        return [event.latent for event in studio.trace(settings) if event.is_stage_end]

    early, late = ends(Settings.of(studio.pipeline.model, "cat", 6, [3, 2]))
    for file, recipe in zip(files, recipes, strict=True):
        own_early, own_late = ends(Settings.from_json(recipe["settings"]))
        assert torch.equal(own_early, early)
        assert not torch.equal(own_late, late)
        assert pixels_of(file)[2] == recipe["image"]["sha256"]
    assert client.predict("cat", 1, 6, 3, [3, 2], api_name="/fork")[1] == recipes


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("generate", {"class_name": "zebra"}, "'zebra' is unknown: use one of cat, dog, frog"),
        ("generate", {"class_name": ["cat"]}, "give a class by name or by number"),
        ("generate", {"class_name": "cat", "seed": -1}, "seed -1 is out of range"),
        ("generate", {"class_name": "cat", "seed": "x"}, "seed is 'x': give a whole number"),
        ("generate", {"class_name": "cat", "seed": 1.5}, "seed is '1.5': give a whole number"),
        ("generate", {"class_name": "cat", "steps": [2]}, "has 1 values? for 2 stages"),
        ("generate", {"class_name": "cat", "steps": "all"}, "steps is 'all'"),
        ("generate", {"class_name": "cat", "steps": 1000}, "use at most 256"),
        ("generate", {"class_name": "cat", "guidance": [1, True]}, "guidance is 'True'"),
        ("generate", {"class_name": "cat", "solver": "magic"}, "solver 'magic' is unknown"),
        ("generate", {"class_name": "cat", "interval": [0.8, 0.2]}, "ends before it begins"),
        ("generate", {"class_name": "cat", "power": 0}, "time_power 0: use 1 for even steps"),
        ("generate", {"class_name": "cat", "power": "all"}, "power is 'all': give a number"),
        ("generate", {"class_name": "cat", "interval": ["a", "b"]}, "'a' is no pair"),
        ("generate", {"class_name": "cat", "interval": [[0, 1]]}, "has 1 values for 2 stages"),
        ("generate", {}, "neither class_name nor recipe"),
        ("generate", {"class_name": "cat", "recipe": {}}, "a class_name and a recipe"),
        ("generate", {"recipe": {"format": 9}}, "format 9, this version reads 1"),
        ("trace", {"class_name": "<b>"}, "class '<b>' is unknown"),
        ("fork", {"class_name": "cat", "stage": 0}, "a fork at stage 0: use 1 to 1"),
        ("fork", {"class_name": "cat", "stage": 1, "variants": 99}, "99 variants: use 1 to 9"),
    ],
)
def test_a_program_is_told_in_one_sentence_what_is_wrong(client, capfd, name, options, sentence):
    with pytest.raises(Exception, match=sentence) as refusal:
        client.submit(**options, api_name=f"/{name}").result()
    assert "\n" not in str(refusal.value)
    assert "Traceback" not in capfd.readouterr().err


def test_the_interface_is_described_to_programs(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/generate", "/trace", "/fork"}
    for name, endpoint in endpoints.items():
        names = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        assert names[0] == "class_name"
        assert {"seed", "steps", "guidance", "interval", "power", "solver"} <= set(names)
        assert all(parameter["type"] for parameter in endpoint["parameters"]), name
        assert len(endpoint["description"]) > 60
    assert [len(endpoints[f"/{name}"]["returns"]) for name in ("generate", "fork")] == [2, 2]


# ----------------------------------------------------------------------------------- `ecar app`


@pytest.fixture
def served(monkeypatch) -> dict:
    """What the app was launched with."""
    import apps.demo

    switches: dict = {}
    monkeypatch.setattr(apps.demo, "launch", lambda **given: switches.update(given))
    monkeypatch.delenv("ECAR_APP_AUTH", raising=False)
    return switches


def test_the_password_comes_from_the_switch_or_the_variable(served, monkeypatch, capsys):
    assert cli.main(["app"]) == 0
    assert (served["auth"], served["mcp"], served["browser"]) == (None, False, False)
    monkeypatch.setenv("ECAR_APP_AUTH", "ann:se:cret")
    assert cli.main(["app", "--host", "0.0.0.0", "--browser"]) == 0
    assert served["auth"] == ("ann", "se:cret")
    assert served["browser"] is True
    assert cli.main(["app", "--auth", "bob:x"]) == 0
    assert served["auth"] == ("bob", "x")
    assert served["hosts"] == ()
    assert cli.main(["app", "--allow-host", "a.example", "--allow-host", "b.example"]) == 0
    assert served["hosts"] == ("a.example", "b.example")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "warned"),
    [("0.0.0.0", True), ("192.168.1.4", True), ("127.0.0.1", False), ("localhost", False)],
)
def test_an_open_door_is_warned_of(served, capsys, host, warned):
    assert cli.main(["app", "--host", host]) == 0
    assert ("set a password" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (["--auth", "secret"], "--auth is not of the form USER:PASSWORD"),
        (["--auth", ":secret"], "--auth is not of the form"),
        (["--auth", ""], "--auth is empty"),
        (["--port", "70000"], "--port is 70000: use 1 to 65535"),
    ],
)
def test_a_switch_that_cannot_be_is_one_sentence(served, capsys, switches, words):
    assert cli.main(["app", *switches]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "secret" not in said
    assert not served


def test_mcp_without_its_package_says_what_to_install(served, capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    there: list = [None]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: there[0] if name == "mcp" else find(name)
    )
    assert cli.main(["app", "--mcp"]) == 2
    assert "pip install 'mcp>=1.21,<2'" in capsys.readouterr().err
    there[0] = object()
    assert cli.main(["app", "--mcp"]) == 0
    assert served["mcp"] is True


def test_a_server_told_to_end_while_it_works_ends_well_and_keeps_nothing(tiny_checkpoint, tmp_path):
    uploads = tmp_path / "uploads"
    port, silent = free_port(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "ecar_lab.cli", "app", "--checkpoint", str(tiny_checkpoint)]
    # A proxy is none of its business: it asks nobody but itself.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    own = {"TMPDIR": tmp_path, "GRADIO_TEMP_DIR": uploads, "ECAR_CHECKPOINTS": tmp_path / "none"}
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, **proxies, **{name: str(place) for name, place in own.items()}},
        cwd=Path(__file__).parents[2],
        **silent,
    )
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/gradio_api/call/generate",
        json.dumps({"data": ["dog", 0, [256, 256], None, "heun", None, None, None, None]}).encode(),
        {"Content-Type": "application/json"},
    )
    form = "--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\nmine\r\n--x--\r\n"
    picture = urllib.request.Request(
        f"http://127.0.0.1:{port}/gradio_api/upload",
        form.encode(),
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        while True:
            assert server.poll() is None
            try:
                straight.open(f"http://127.0.0.1:{port}/theme.css", timeout=60).close()
                break
            except OSError:
                time.sleep(0.2)
        for _ in range(10):  # all but the first wait
            straight.open(asked, timeout=60).close()
        straight.open(picture, timeout=60).close()
        assert any(path.is_file() for path in uploads.rglob("*"))
        # The opening image is there, and the long run, which has a folder of its own, has begun.
        while (
            not list(tmp_path.glob("ecar-demo-*/*/*/*.png"))
            or len(list(tmp_path.glob("ecar-demo-*/*/*"))) < 2
        ):
            assert server.poll() is None
            time.sleep(0.05)
        server.terminate()
        assert server.wait(120) == 0
    finally:
        server.kill()
    assert not list(tmp_path.glob("ecar-demo-*"))
    assert not [path for path in uploads.rglob("*") if path.is_file()]
