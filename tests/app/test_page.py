"""The whole page: its tour, what it serves and asks for, and the port that it listens on."""

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from apps import demo
from ecar_lab.errors import EcarError
from tests.app.page import GROWN, QUIET, open_generate
from tests.browsing import PATIENCE, free_port

pytestmark = QUIET


def test_the_tour_shows_itself_once_and_points_at_six_places(browser, demo_address):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(demo_address)
    page.wait_for_function(GROWN)
    card = page.get_by_role("dialog")
    titles = []
    for number in range(1, 7):
        page.wait_for_function(
            f"document.querySelector('.tour .count').textContent === '{number} of 6'"
        )
        page.wait_for_selector("[data-toured]")
        assert page.locator("[data-toured]").count() == 1
        titles.append(card.get_by_role("heading").inner_text())
        card.get_by_role("button", name=re.compile("Next|Done")).click()
    assert len(set(titles)) == 6
    assert card.is_hidden()
    page.reload()
    page.wait_for_function(GROWN)
    assert page.get_by_role("dialog").is_hidden()
    page.get_by_role("button", name="Guided tour").click()
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").is_hidden()
    context.close()


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


@pytest.fixture(scope="module")
def phone(browser, demo_address):
    """The Generate tab on a phone, and the hosts that it has asked."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.set_default_timeout(PATIENCE)
    hosts = set()
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    open_generate(tab, demo_address)
    yield tab, hosts
    tab.close()


def test_a_phone_needs_no_sideways_scrolling(phone):
    tab, _ = phone
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


def test_the_page_asks_nobody_else_for_anything(phone, demo_address):
    _, hosts = phone
    assert {host for host in hosts if host} == {demo_address.split("/")[2]}


def test_the_whole_page_offers_three_functions_by_their_names(demo_address):
    with urllib.request.urlopen(f"{demo_address}gradio_api/info") as answer:
        named = json.load(answer)["named_endpoints"]
    assert sorted(named) == ["/fork", "/generate", "/trace"]


def test_only_what_the_demo_wrote_is_served(demo_address, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (1, 1)).save(secret)
    for path in (secret, Path(__file__)):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{demo_address}gradio_api/file={path}")
        assert refusal.value.code == 403


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


def test_a_machine_that_is_slow_to_answer_is_not_given_up(monkeypatch):
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)  # after three seconds
    page, address = demo.launch("nowhere", port=free_port(), block=False)
    try:
        with urllib.request.urlopen(f"{address}theme.css") as answer:
            assert answer.status == 200
    finally:
        page.close()
