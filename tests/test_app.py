"""The demo: a real server, a real browser, a real client, on a pipeline with random weights."""

import json
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from app_page import PATIENCE, free_port
from PIL import Image

from apps import demo, generate, stream, studio
from apps.settings import Edit, Settings
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from ecar_lab.viz.colours import LatentColours

# Gradio's own bookkeeping, in pandas' words of yesterday.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no_silent_downcasting", "ignore:The copy keyword is deprecated"
)

NO_TOUR = "localStorage.setItem('ecar-tour-seen', 'yes')"
STOPPED = "document.querySelector('#generate-player .status').textContent === 'Stopped.'"
DONE = "document.querySelector('#generate-player .status')?.textContent.startsWith('Done: %s')"


@pytest.fixture(scope="module")
def address(tiny_checkpoint: Path) -> Iterator[str]:
    page, address = demo.launch(tiny_checkpoint, port=free_port(), dtype="float32", block=False)
    yield address
    page.close()


@pytest.fixture
def tab(browser, address: str):
    """The page with its opening image shown."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_init_script(NO_TOUR)
    page = context.new_page()
    page.goto(address)
    page.wait_for_function(DONE % "")
    yield page
    context.close()


@pytest.fixture
def slow_trace(monkeypatch):
    """A model so slow that one can click while it works."""
    trace = ECARPipeline.trace

    def slow(self, *args, **kwargs):
        for event in trace(self, *args, **kwargs):
            time.sleep(0.2)
            yield event

    monkeypatch.setattr(ECARPipeline, "trace", slow)
    return monkeypatch


def choose(tab, class_name: str, seed: int | str) -> None:
    controls = tab.locator("#generate-controls")
    controls.get_by_label("Class").click()
    tab.get_by_role("option", name=class_name, exact=True).click()
    controls.get_by_label("Seed", exact=True).fill(str(seed))
    controls.get_by_label("Seed", exact=True).press("Tab")


# ------------------------------------------------------------------------------------- in a browser


def test_an_image_of_the_model_is_there_before_the_first_click(tab):
    tab.wait_for_selector("#generate-player-picture img")
    assert tab.locator("#generate-player .tile img").count() == 6
    assert "cat, seed 0" in tab.inner_text("#generate-player .status")


def test_generate_shows_every_stage_and_the_image(tab):
    tab.evaluate(
        """() => {
            window.said = [];
            const status = document.querySelector("#generate-player .status");
            new MutationObserver(() => window.said.push(status.textContent))
                .observe(status, { childList: true });
        }"""
    )
    choose(tab, "dog", 7)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "dog, seed 7")
    said = "\n".join(tab.evaluate("window.said"))
    order = ["Stage 1 starts from pure noise", "Stage 1, flow step 2 of 2", "is upsampled to 8×8"]
    order += ["gets new noise", "Stage 2, flow step 2 of 2", "Done"]
    places = [said.find(part) for part in order]
    assert -1 not in places, said
    assert places == sorted(places)

    tab.wait_for_selector("#generate-player-picture img[alt*='dog, seed 7']")
    sizes = "[...document.querySelectorAll('%s')].map((image) => image.naturalWidth)"
    assert tab.evaluate(sizes % "#generate-player .tile img") == [4, 8] * 3
    assert tab.evaluate(sizes % "#generate-player-picture img") == [8]
    widths = (
        "[...document.querySelectorAll('#generate-player .tile img')].map((image) => image.width)"
    )
    shown = tab.evaluate(widths)
    assert [wide / narrow for narrow, wide in zip(shown[::2], shown[1::2], strict=True)] == [2] * 3
    alts = tab.eval_on_selector_all(
        "#generate-player .tile img", "images => images.map(image => image.alt)"
    )
    assert alts[0] == "Noisy latent of stage 1, 4 by 4, step 2 of 2"
    rows = tab.locator(".costs tbody tr")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["1:", "2:", "All"]


def test_a_seed_left_empty_is_drawn_and_shown(tab):
    choose(tab, "cat", "")
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(
        "document.querySelector('#generate-player .status').textContent.includes('Waiting')"
    )
    tab.wait_for_function(DONE % "cat")
    seed = tab.locator("#generate-controls").get_by_label("Seed", exact=True).input_value()
    assert seed.isdecimal()
    assert f"seed {seed}," in tab.inner_text("#generate-player .status")


def test_the_dice_change_the_seed(tab):
    tab.get_by_role("button", name="New seed").click()
    seed = tab.locator("#generate-controls").get_by_label("Seed", exact=True)
    tab.wait_for_function("document.querySelector('#generate-seed input').value !== '0'")
    assert 0 <= int(seed.input_value()) < 2**31


def test_a_finished_run_is_walked_through_by_keyboard_without_the_server(tab):
    requests = []
    slider = tab.get_by_label("Step of the run")
    assert slider.get_attribute("max") == slider.input_value() == "6"
    slider.focus()
    tab.on("request", lambda request: requests.append(request.url))
    tab.keyboard.press("Home")
    said = "document.querySelector('#generate-player .status').textContent"
    assert "Stage 1 starts from pure noise" in tab.evaluate(said)
    widths = "images => images.map(image => image.naturalWidth)"
    shown = tab.eval_on_selector_all("#generate-player .tile img", widths)
    assert set(shown) == {4}  # a stage not begun shows nothing
    assert tab.locator("#pipeline [aria-current]").inner_text().endswith("Token map 1")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    assert "is upsampled to 8×8" in tab.evaluate(said)
    assert tab.locator("#pipeline [aria-current]").inner_text().endswith("Upsample + re-noise")
    tab.keyboard.press("ArrowRight")
    assert "gets new noise" in tab.evaluate(said)
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    assert "Stage 1, flow step 2 of 2" in tab.evaluate(said)
    tab.keyboard.press(" ")
    tab.wait_for_function(DONE % "cat")
    assert [url for url in requests if "queue" in url] == []
    curves = tab.locator("#generate-player svg")
    assert curves.count() == 3
    assert curves.first.get_attribute("aria-label").startswith("Velocity over 4 steps")


def test_a_preset_sets_the_steps(tab):
    tab.get_by_role("button", name="Steps, guidance and solver").click()
    first = tab.locator("#generate-controls").get_by_label("number input for Steps, stage 1")
    assert first.input_value() == "2"
    tab.get_by_label("best").click()
    tab.wait_for_function(
        "[...document.querySelectorAll('#generate-more input[type=number]')][0].value === '4'"
    )
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "cat, seed 0, steps 4 + 4")


def test_the_tour_shows_itself_once_and_points_at_five_places(browser, address):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_function(DONE % "")
    card = page.get_by_role("dialog")
    titles = []
    for number in range(1, 6):
        page.wait_for_function(
            f"document.querySelector('.tour .count').textContent === '{number} of 5'"
        )
        page.wait_for_selector("[data-toured]")
        assert page.locator("[data-toured]").count() == 1
        titles.append(card.get_by_role("heading").inner_text())
        card.get_by_role("button", name=re.compile("Next|Done")).click()
    assert len(set(titles)) == 5
    assert card.is_hidden()
    page.reload()
    page.wait_for_function(DONE % "")
    assert page.get_by_role("dialog").is_hidden()
    page.get_by_role("button", name="Guided tour").click()
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").is_hidden()
    context.close()


def test_stop_ends_a_run_and_the_next_one_goes(tab, slow_trace):
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function("document.querySelectorAll('#generate-player .tile img').length > 0")
    tab.get_by_role("button", name="Stop").click()
    tab.wait_for_function(
        "document.querySelector('#generate-player .status').textContent === 'Stopped.'"
    )
    tab.wait_for_selector("#generate:not([disabled])")
    slow_trace.undo()
    choose(tab, "frog", 1)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "frog, seed 1")


def test_a_visitor_who_goes_away_does_not_hold_up_the_next(browser, tab, address, slow_trace):
    other = browser.new_context()
    other.set_default_timeout(PATIENCE)
    page = other.new_page()
    page.goto(address)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#generate-player .tile img').length > 0")
    other.close()
    slow_trace.undo()
    choose(tab, "dog", 5)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(DONE % "dog, seed 5")


def test_an_error_is_a_sentence_on_the_page(tab, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise EcarError("<b>guidance</b> nan is not finite: use 1 or more")

    monkeypatch.setattr(ECARPipeline, "trace", refuse)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_selector("#generate-banner [role=alert]")
    assert tab.inner_text("#generate-banner") == "<b>guidance</b> nan is not finite: use 1 or more"
    tab.wait_for_function(
        "() => document.querySelector('#generate-player .status').innerText === 'Stopped.'"
    )
    tab.wait_for_selector("#generate:not([disabled])")


def test_a_fault_of_ours_gives_the_button_back(tab, monkeypatch):
    def break_down(self, *args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(ECARPipeline, "trace", break_down)
    tab.get_by_role("button", name="Generate", exact=True).click()
    tab.wait_for_function(
        "document.querySelector('#generate-player .status').textContent === 'Stopped.'"
    )
    tab.wait_for_selector("#generate:not([disabled])")


def test_a_page_without_a_checkpoint_says_what_to_do(browser):
    page, address = demo.launch("nowhere", port=free_port(), block=False)
    try:
        tab = browser.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.goto(address)
        tab.wait_for_selector("[role=alert] >> visible=true")
        sentence = tab.inner_text("#banner")
        assert "There is no checkpoint 'nowhere'" in sentence
        assert "ecar train" in sentence
        assert tab.get_by_role("button", name="Generate", exact=True).count() == 0
        tab.close()
    finally:
        page.close()


def test_a_phone_needs_no_sideways_scrolling(browser, address):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.set_default_timeout(PATIENCE)
    tab.goto(address)
    tab.wait_for_function(DONE % "")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    beyond = (
        "[...document.querySelectorAll('%s')].filter(e => e.getBoundingClientRect().right > 390)"
    )
    assert (
        tab.evaluate(
            f"{beyond % '#generate-player *, .costs *, #generate-player-picture *'}.length"
        )
        == 0
    )
    tab.close()


def test_the_page_asks_nobody_else_for_anything(browser, address):
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    hosts = set()
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    tab.goto(address)
    tab.wait_for_function(DONE % "")
    tab.close()
    assert {host for host in hosts if host} == {address.split("/")[2]}


def test_the_whole_page_offers_three_functions_by_their_names(address):
    with urllib.request.urlopen(f"{address}gradio_api/info") as answer:
        named = json.load(answer)["named_endpoints"]
    assert sorted(named) == ["/fork", "/generate", "/trace"]


def test_only_what_the_demo_wrote_is_served(address, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (1, 1)).save(secret)
    for path in (secret, Path(__file__)):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert refusal.value.code == 403


# -------------------------------------------------------------------------- stream, folders, server


@pytest.fixture
def settings() -> Settings:
    return Settings("cat", 4, (3, 2), (1.5, 1.5))


@pytest.fixture
def colours(tiny_pipeline) -> LatentColours:
    return LatentColours.of(tiny_pipeline.tokenizer)


def test_no_event_is_lost_however_seldom_the_page_is_told(
    tiny_pipeline, settings, colours, tmp_path
):
    views = [
        progress.view
        for progress in stream.stream(tiny_pipeline, settings, tmp_path, colours, interval=1e9)
    ]
    assert [len(view["frames"]) for view in views] == [1, 7]
    last = views[-1]
    assert last["done"]
    assert [(frame["stage"], frame["step"]) for frame in last["frames"]] == [
        *((0, step) for step in range(4)),
        *((1, step) for step in range(3)),
    ]
    ends = [frame for frame in last["frames"] if frame["step"] == frame["steps"]]
    names = {frame[row] for frame in last["frames"] for row in ("noisy", "clean")}
    names |= {frame["decoded"] for frame in ends}
    assert names <= {path.name for path in tmp_path.iterdir()}


def test_a_view_stays_as_it_was_when_the_run_goes_on(tiny_pipeline, settings, colours, tmp_path):
    views = [
        progress.view
        for progress in stream.stream(tiny_pipeline, settings, tmp_path, colours, interval=0)
    ]
    assert [len(view["frames"]) for view in views] == list(range(1, 8))


def test_times_are_those_of_the_trace(tiny_pipeline, settings, colours, tmp_path):
    *_, progress = stream.stream(tiny_pipeline, settings, tmp_path, colours)
    assert [stage.steps for stage in progress.costs] == [3, 2]
    assert all(stage.transformer > 0 and stage.head > 0 for stage in progress.costs)
    assert progress.costs[0].decode == 0 < progress.costs[1].decode
    assert stream.total(progress.costs).head == sum(stage.head for stage in progress.costs)
    table = generate.cost_table(progress)
    assert re.findall(r"<th scope='row'>(.*?)</th>", table) == ["1: 4×4", "2: 8×8", "All"]


def test_settings_survive_json_and_say_what_is_different():
    edit = Edit(0, ("10", "00"), "copy", None, "dog", 5)
    settings = Settings(
        "cat", 4, (3, 2), (1.0, 2.0), "heun", ("cat", "dog"), (4, 9), (True, False), (edit,)
    )
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.differences() == [
        "heun",
        "class dog in stage 2",
        "noise of seed 9 in stage 2",
        "no new noise in stage 2",
        "1 latent pixels at the end of stage 1 ← dog, seed 5",
    ]
    with pytest.raises(EcarError, match="the setting 'colour' is unknown"):
        Settings.from_json({**settings.to_json(), "colour": 1})
    with pytest.raises(EcarError, match="cannot be read"):
        Settings.from_json({"class_name": "cat"})
    with pytest.raises(EcarError, match="guidance has 1 values for 2 stages"):
        Settings("cat", 4, (3, 2), (1.0,))


def test_settings_are_the_run_of_their_seed(tiny_pipeline):
    model = tiny_pipeline.model
    settings = Settings.of(model, "dog", 7, [3, 2], 2.0)
    *_, event = tiny_pipeline.trace(**settings.trace_arguments(model))
    *_, plain = tiny_pipeline.trace(
        ["dog"], [3, 2], 2.0, generator=torch.Generator().manual_seed(7)
    )
    assert torch.equal(event.latent, plain.latent)


def test_a_visitor_keeps_so_many_runs_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(studio, "KEEP_RUNS", 2)
    folders = studio.Folders()
    runs = [folders.new_run("visitor") for _ in range(3)]
    assert [run.exists() for run in runs] == [False, True, True]
    other = folders.new_run("other")
    folders.forget("visitor")
    assert not runs[-1].exists()
    assert other.exists()
    runs[-1].mkdir(parents=True)  # a run that had not noticed
    folders.close_run(runs[-1])
    assert not runs[-1].parent.exists()
    assert list(folders.root.iterdir()) == [other.parent]


def test_a_visitor_who_never_said_goodbye_is_forgotten_but_not_the_opening(monkeypatch):
    folders = studio.Folders()
    opening, silent = folders.new_run(None), folders.new_run("silent")
    monkeypatch.setattr(studio, "FORGET_AFTER", -1.0)
    folders.new_run("next")
    assert opening.exists()
    assert not silent.exists()


def test_a_run_whose_visitor_left_ends_quietly(tiny_checkpoint, settings):
    house = studio.Studio(tiny_checkpoint)
    run = house.run(settings, "visitor")
    next(run)
    house.folders.forget("visitor")
    assert list(run) == []
    assert list(house.folders.root.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["gpu", "cpu"],
)
def test_a_full_memory_is_one_sentence(tiny_checkpoint, settings, monkeypatch, error):
    def fill(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(ECARPipeline, "trace", fill)
    with pytest.raises(EcarError, match="ran out of memory"):
        list(studio.Studio(tiny_checkpoint).run(settings, "visitor"))


def test_a_damaged_checkpoint_is_a_banner_and_not_a_crash(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    weights = folder / "model" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be loaded" in (studio.Studio(folder).problem or "")


@pytest.mark.parametrize("port", ["http", "0", "99999"])
def test_a_port_that_is_none_is_refused(port, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(EcarError, match=f"GRADIO_SERVER_PORT is '{port}'"):
        demo.port_of_environment()


def test_the_port_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    assert demo.port_of_environment() == 7999
    monkeypatch.delenv("GRADIO_SERVER_PORT")
    assert demo.port_of_environment() == 7860


def test_a_port_in_use_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EcarError, match=f"port {port} of 127.0.0.1 cannot be used"):
            demo.launch("nowhere", port=port, block=False)
