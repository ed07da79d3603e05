"""What the page says where something is wrong with it, with the browser or with the way to it."""

import json
import shlex

import pytest

from tests.browsing import PATIENCE
from tests.site.conftest import arrive, serving, visit

# A file, what comes in its place (a status, or a content), and what is said.
NOT_STARTED = [
    ("model/manifest.json", 404, "model/manifest.json did not arrive (404)"),
    ("model/manifest.json", '{"format":', "model/manifest.json is damaged"),
    ("model/manifest.json", "null", "model/manifest.json is damaged"),
    ("model/manifest.json", '{"format": 0}', "has format 0, this page reads 1"),
    ("model/manifest.json", '{"format": 1, "class_names": []}', "of another build"),
    ("lab.json", 503, "lab.json did not arrive (503)"),
    ("views.js", 404, "a part of it did not arrive"),
    ("views.js", "export const = 3;", "a part of it did not arrive or is of another build"),
]
RECORDED = [
    ("worker.js", 404, "The model's worker ended"),
    ("ort/ort.wasm.bundle.min.mjs", 404, "ort.wasm.bundle.min.mjs did not arrive"),
    ("model/weights.bin", 404, "weights.bin did not arrive (404)"),
]
KEEP = """async () => {
    const { Model } = await import(new URL("model.js", location.href));
    const of = async (place) => (await fetch(place)).json();
    const model = new Model();
    await model.load(await of("lab.json"), await of("model/manifest.json"));
    const kept = await model.keep();
    model.close();
    return kept;
}"""


@pytest.fixture(scope="module")
def folder(labs):
    return labs.pages["float32"]


@pytest.fixture(scope="module")
def visitor(browser, folder):
    """A page and its address; nothing is kept between visits."""
    context = browser.new_context(service_workers="block", reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with serving(folder) as address:
        yield page, address
    context.close()


def spoil(page, name: str, instead: int | str) -> None:
    page.unroute_all()
    script = "text/javascript" if name.endswith("js") else "application/json"
    answer = (
        {"status": instead} if isinstance(instead, int) else
        {"body": instead, "content_type": script}
    )  # fmt: skip
    page.route(f"**/{name}", lambda route: route.fulfill(**answer))


@pytest.mark.parametrize(("name", "instead", "words"), NOT_STARTED)
def test_what_keeps_the_page_from_starting_is_said(visitor, name, instead, words):
    page, address = visitor
    spoil(page, name, instead)
    page.goto(address)
    arrive(page, "broken")
    said = page.inner_text("#banner")
    assert said.startswith("This page does not start: ")
    assert words in said
    assert page.locator("button:enabled, input:enabled, select:enabled").count() == 0


@pytest.mark.parametrize(("name", "instead", "words"), RECORDED)
def test_what_is_missing_of_the_model_is_said(visitor, name, instead, words):
    page, address = visitor
    spoil(page, name, instead)
    page.goto(address)
    arrive(page, "recorded")
    assert words in page.inner_text("#banner")
    assert "was recorded" in page.inner_text("#banner")


def test_nothing_is_said_to_be_recorded_where_that_is_missing_too(visitor):
    page, address = visitor
    spoil(page, "recorded.png", 404)
    page.route("**/weights.bin", lambda route: route.fulfill(status=404))
    page.goto(address)
    arrive(page, "broken")
    said = page.inner_text("#banner")
    assert "weights.bin did not arrive" in said
    assert "recorded" not in said


def test_a_page_that_is_opened_as_a_file_says_how_to_show_it(browser, folder):
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    arrive(page, "broken")
    assert "make lab-serve" in page.inner_text("#banner")
    page.close()


def test_a_full_disk_is_not_taken_for_a_page_that_works_without_a_network(visitor, folder):
    page, address = visitor
    full = "Cache.prototype.put = async () => { throw new DOMException('full'); };"
    spoil(page, "worker.js", full + (folder / "worker.js").read_text("utf-8"))
    page.goto(f"{address}words.js")
    assert page.evaluate(KEEP) is False


@pytest.mark.parametrize("right", [True, False])
def test_a_graphics_driver_has_to_compute_the_same(visitor, folder, right):
    """WebAssembly stands for the driver."""
    page, address = visitor
    said = json.loads((folder / "lab.json").read_text("utf-8"))
    said["recorded"]["latent"][5] += 0 if right else 1
    spoil(page, "lab.json", json.dumps(said))
    driver = (folder / "worker.js").read_text("utf-8").replace("[backend]", '["wasm"]')
    page.route("**/worker.js", lambda r: r.fulfill(body=driver, content_type="text/javascript"))
    page.goto(f"{address}?backend=webgpu")
    arrive(page, "done" if right else "recorded")
    if right:
        assert page.inner_text("#engine").startswith("Runs here on WebGPU")
    else:
        assert "it computes another image" in page.inner_text("#banner")


def test_over_plain_http_from_another_machine_it_runs_and_keeps_nothing(browser, folder):
    """As there, the browser gives the page neither caches nor a service worker nor hashes."""
    undefine = "Object.defineProperty(self, '{}', {{value: undefined}});"
    hide = undefine.format("caches") + undefine.format("crypto")
    with serving(folder) as address, visit(browser, f"{address}words.js") as page:
        code = hide + (folder / "worker.js").read_text("utf-8")
        page.route("**/worker.js", lambda r: r.fulfill(body=code, content_type="text/javascript"))
        assert page.evaluate(KEEP) is False


def test_a_model_without_an_encoder_and_with_odd_names_of_classes(visitor, folder):
    page, address = visitor
    said = json.loads((folder / "model" / "manifest.json").read_text("utf-8"))
    said |= {"encoder": None, "class_names": ["<b>cat</b>", "dog's; true", "x" * 90]}
    spoil(page, "manifest.json", json.dumps(said))
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{address}#view=paint&class=dog's; true")
    arrive(page)
    assert "view “paint”" in page.inner_text("#banner")
    assert page.get_by_label("Paint a stage").count() == 0
    assert page.inner_text(".caption").startswith("dog's; true, seed 0: made")
    command = shlex.split(page.inner_text("#command"))
    assert command[command.index("--classes") + 1] == "dog's; true"
    page.get_by_label("All classes").check()
    arrive(page)
    assert page.locator(".all button").all_inner_texts() == said["class_names"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
