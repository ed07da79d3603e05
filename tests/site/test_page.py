"""The page in a browser: it makes PyTorch's images, works without a network, stops, and says what
it cannot do. On a tiny model; tests/scripts/measure_lab.py tries one that ships."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from ecar_lab.interventions import stage_end_of, stage_noise
from tests.site.conftest import Labs, arrive, replace, serving, visit

SEEDS = list(range(10))
DISTANCE = {"float32": 1e-3, "float16": 2e-2}
LEAST_PSNR = 40  # dB
SERIOUS = ("serious", "critical")
# A model of its own beside the page's; the latents after every step and the last pictures of a run.
MAKE = """async ([wish, options]) => {
    const { Model } = await import(new URL("model.js", location.href));
    const of = async (place) => (await fetch(place)).json();
    const model = new Model();
    const given = [await of("lab.json"), await of("model/manifest.json")];
    const loaded = await model.load(...given, options);
    const frames = [];
    const seconds = await model.run(wish, { onFrame: (frame) => frames.push(frame) });
    model.close();
    return {
        loaded, seconds, isolated: crossOriginIsolated,
        latents: frames.map(({ state }) => Array.from(state)),
        picture: Array.from(frames.at(-1).picture.data),
    };
}"""
# Stopped at the first moment of a run of many images; then another one.
STOP = """async () => {
    const { Model } = await import(new URL("model.js", location.href));
    const of = async (place) => (await fetch(place)).json();
    const model = new Model();
    await model.load(await of("lab.json"), await of("model/manifest.json"));
    const many = Array(50).fill(0);
    let come = 0;
    const stopped = await model.run({ labels: many, seeds: many }, {
        onFrame() { come += 1; if (come === 1) model.stop(); },
    });
    const replaced = model.run({ labels: many, seeds: many });
    const seconds = await model.run({ labels: [1], seeds: [2] });
    model.close();
    return { stopped, come, replaced: await replaced, seconds };
}"""


@pytest.fixture(scope="module")
def page(browser, labs: Labs):
    """One page for what leaves it as it is."""
    with serving(labs.pages["float32"]) as address, visit(browser, address) as page:
        arrive(page)
        yield page


def psnr(picture: list[int], wanted: torch.Tensor) -> float:
    """Of bytes RGBA and images in [-1, 1], in dB; the worst image."""
    count, _, height, width = wanted.shape
    bytes_ = np.reshape(picture, (count, height, width, 4))[..., :3]
    assert (np.reshape(picture, (-1, 4))[:, 3] == 255).all()
    error = bytes_ / 255 - (wanted.detach().permute(0, 2, 3, 1).numpy() + 1) / 2
    return -10 * np.log10(np.square(error).mean((1, 2, 3)).max())


def check_run(made, labs: Labs, weights: str, theirs) -> None:
    assert len(made["latents"]) == len(theirs)
    for ours, event in zip(made["latents"], theirs, strict=True):
        difference = np.abs(np.reshape(ours, event.latent.shape) - event.latent.numpy())
        assert difference.max() <= DISTANCE[weights]
    images = labs.torch.tokenizer.decode(theirs[-1].latent)
    assert psnr(made["picture"], images) >= LEAST_PSNR


@pytest.mark.parametrize("weights", DISTANCE)
def test_ten_seeds_make_pytorchs_images(browser, labs, weights):
    labels = [seed % 3 for seed in SEEDS]
    with serving(labs.pages[weights]) as address, visit(browser, f"{address}words.js") as page:
        made = page.evaluate(MAKE, [{"labels": labels, "seeds": SEEDS}, {"backend": "wasm"}])
    assert (made["loaded"]["backend"], made["loaded"]["threads"]) == ("wasm", 1)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    check_run(made, labs, weights, list(labs.torch.trace(labels, generator=generators)))


def test_a_painted_stage_is_completed_as_pytorch_completes_it(page, labs):
    colours, seeds = ["#c82828", "#78b4f0", "#101010", "#f4f4f4"] * 4, [4, 9]
    wish = {"labels": [2, 0], "seeds": seeds, "painted": {"colours": colours, "stage": 0}}
    made = page.evaluate(MAKE, [wish, {}])
    levels = torch.tensor([list(bytes.fromhex(c[1:])) for c in colours]).float() / 127.5 - 1
    picture = levels.T.reshape(1, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    model = labs.torch.model
    drawn = [stage_noise(model, seed) for seed in seeds]
    noise = [torch.cat(stage) for stage in zip(*drawn, strict=True)]
    clean = labs.torch.tokenizer.encode(picture).expand(2, -1, -1, -1)
    start = stage_end_of(model, clean, 0, [2, 0], noise)
    theirs = labs.torch.trace([2, 0], start_from=start, noise=dict(enumerate(noise)))
    check_run(made, labs, "float32", list(theirs))


def test_threads_where_the_server_lets_the_page_have_them_and_the_same_image(browser, labs):
    wish = {"labels": [1], "seeds": [5]}
    with (
        serving(labs.pages["float32"], isolate=True) as address,
        visit(browser, f"{address}words.js") as page,
    ):
        made = page.evaluate(MAKE, [wish, {"threads": 2, "backend": "wasm"}])
    assert made["isolated"]
    assert made["loaded"]["threads"] == 2
    generator = torch.Generator().manual_seed(5)
    check_run(made, labs, "float32", list(labs.torch.trace([1], generator=generator)))


def test_a_run_is_stopped_by_word_and_by_the_next_one(page):
    made = page.evaluate(STOP)
    assert made["stopped"] is None
    assert made["come"] == 1, "nothing more was made"
    assert made["replaced"] is None
    assert made["seconds"] > 0


def test_the_button_stops_a_run(page):
    page.evaluate("() => { const go = document.getElementById('go'); go.click(); go.click(); }")
    arrive(page, "stopped")
    assert page.inner_text("#engine") == "Stopped."
    page.click("#go")
    arrive(page)
    assert page.inner_text("#go") == "Generate"


def test_the_page_works_without_a_server_after_the_first_visit(browser, labs, tmp_path):
    """In the build that was seen last, whole."""
    folder = shutil.copytree(labs.pages["float32"], tmp_path / "lab", copy_function=os.link)
    context = browser.new_context()
    tab = context.new_page()
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    with serving(folder) as address:
        tab.goto(address)
        tab.wait_for_selector("body[data-offline=yes]")
        shutil.copy(folder / "address.js", folder / "more.js")
        replace(folder / "address.js", lambda _: 'export * from "./more.js";')
        for old, new in (
            ('"build": "', '"build": "2'),
            ('"address.js"', '"address.js", "more.js"'),
        ):
            replace(folder / "lab.json", lambda text, old=old, new=new: text.replace(old, new))
        tab.goto(f"{address}?again")
        tab.wait_for_selector("body[data-offline=yes]")
    small = [name for name in tab.evaluate("caches.keys()") if name.startswith("ecar-lab-small")]
    assert len(small) == 1, "the copy of the earlier build is gone"
    tab.goto(f"{address}index.html?again#view=all&seed=7")  # there is nobody any more
    arrive(tab)
    assert tab.locator(".all canvas").count() == 3
    assert tab.input_value("#seed") == "7", "read by the new file"
    assert complaints == []
    assert tab.evaluate("crossOriginIsolated"), "the service worker gives it threads"
    context.close()


def test_nothing_is_complained_of_and_nobody_else_is_asked(page):
    for view in ("All classes", "Paint a stage", "One image"):
        page.get_by_label(view).check()
        arrive(page)
    page.wait_for_selector("body[data-offline=yes]")
    assert page.complaints == []
    assert page.hosts == {page.url.split("/")[2]}


def test_the_page_is_used_by_keyboard(page):
    page.get_by_label("One image").check()
    arrive(page)
    moments = int(page.get_attribute("#moment", "max"))
    assert moments == 4 + 2 + 2 - 1
    page.focus("#moment")
    page.keyboard.press("Home")
    assert page.inner_text("#where") == "Stage 1, before its first step"
    page.keyboard.press("ArrowRight")
    assert "2 of 8" in page.get_attribute("#moment", "aria-valuetext")
    assert page.inner_text("#where") == "Stage 1, step 1 of 4"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("2")
    page.wait_for_selector(".all canvas")
    page.keyboard.press("3")
    cell = page.get_by_label("Row 1, column 1:")
    cell.focus()
    before = cell.get_attribute("aria-label")
    page.keyboard.press("Enter")
    assert cell.get_attribute("aria-label") == "Row 1, column 1: red" != before
    page.keyboard.press("ArrowDown")
    assert "Row 2" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    arrive(page)


def test_a_link_leads_to_its_view_class_and_seed(browser, labs):
    with (
        serving(labs.pages["float32"]) as address,
        visit(browser, f"{address}#view=one&class=frog&seed=12") as page,
    ):
        arrive(page)
        assert page.inner_text(".caption").startswith("frog, seed 12: made here")
        assert "--classes frog --seed 12" in page.inner_text("#command")
        for wrong in ("-3", "1.5", "4294967296", "1e3"):
            page.fill("#seed", wrong)
            page.press("#seed", "Enter")
            assert f"{wrong} is not possible" in page.inner_text("#banner")
            assert page.input_value("#seed") == "12"


def test_what_an_address_asks_for_in_vain_is_named(page):
    """Of a link in the same tab, too, and nothing is left of it in the next run."""
    page.evaluate("location.hash = 'view=one&class=frog&seed=3'")
    page.wait_for_selector(".caption:text-matches('^frog, seed 3: made')")
    assert page.is_hidden("#banner")
    page.evaluate("location.hash = 'view=each&class=unicorn&seed=1e3'")
    page.wait_for_selector("#banner:visible")
    arrive(page)
    said = page.inner_text("#banner")
    for wrong in ("view “each”", "class “unicorn”", "seed “1e3”"):
        assert wrong in said
    assert page.inner_text(".caption").startswith("cat, seed 0: made")
    page.click("#go")
    arrive(page)
    assert page.is_hidden("#banner")


def test_a_seed_is_typed_and_generate_is_pressed(page):
    """Leaving the field begins a run; the button that then says Stop was pressed as Generate."""
    page.get_by_label("One image").check()
    arrive(page)
    page.fill("#seed", "77")
    page.click("#go")
    page.wait_for_selector(".caption:text-matches('seed 77: (made|stopped)')")
    assert "seed 77: made here" in page.inner_text(".caption")


def test_all_of_it_is_on_a_screen_of_1280_by_720(page):
    page.set_viewport_size({"width": 1280, "height": 720})
    for view in ("One image", "All classes", "Paint a stage"):
        page.get_by_label(view).check()
        arrive(page)
        high = page.evaluate("document.documentElement.scrollHeight")
        assert high <= 720, f"{view}: {high} pixels"


def test_the_work_is_what_the_kit_counts(page, labs):
    flops = labs.torch.model.flops()
    told = json.loads((labs.pages["float32"] / "lab.json").read_text())["cost"]
    assert [stage["head"] for stage in told["stages"]] == flops["head"]
    ours = sum(sum(part) for part in flops.values())
    said = page.inner_text("#cost")
    assert f"E-CAR: {ours / 1e9:.3g} GFLOP" in said
    assert f"{told['dit']['flops'] / ours:.2g} times the work" in said


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
def test_axe_finds_nothing_serious(page, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    found = []
    for view in ("One image", "All classes", "Paint a stage"):
        page.get_by_label(view).check()
        arrive(page)
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in SERIOUS:
                nodes = [node["html"][:160] for node in violation["nodes"]]
                found.append((view, violation["id"], nodes))
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide == width, f"{view}: nothing is cut off at the side"
    assert found == []


# -- where the model cannot run --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("delete self.WebAssembly", "has no WebAssembly"),
        ("WebAssembly.validate = () => false", "has no SIMD"),
        ("worker: WebAssembly.instantiate = async () => { throw new RangeError('out of memory') }",
         "not enough memory"),
        ("weights", "arrived damaged"),
    ],
)  # fmt: skip
def test_what_was_recorded_is_shown_where_the_model_cannot_run(browser, labs, spoil, words):
    folder = labs.pages["float32"]
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    if spoil == "weights":
        size = (folder / "model" / "weights.bin").stat().st_size
        page.route("**/weights.bin", lambda route: route.fulfill(body=bytes(size)))
    elif spoil.startswith("worker: "):
        code = f"{spoil[8:]};\n{(folder / 'worker.js').read_text()}"
        script = "text/javascript"
        page.route("**/worker.js", lambda route: route.fulfill(body=code, content_type=script))
    else:
        page.add_init_script(spoil)
    with serving(folder) as address:
        page.goto(address)
        arrive(page, "recorded")
        assert words in page.inner_text("#banner")
        assert page.get_by_label("Paint a stage").is_disabled()
        assert page.inner_text(".caption").endswith("recorded when this page was built")
        page.get_by_label("All classes").check()
        assert page.locator(".all canvas:not(.empty)").count() == 3
        page.locator("#moment").fill("0")
        assert page.inner_text("#where") == "Stage 1, before its first step"
    context.close()


def test_what_was_recorded_is_what_the_model_makes(page):
    """Of every class and moment, within what rounding does."""
    furthest = page.evaluate("""async () => {
        const { recordedRun } = await import(new URL("pictures.js", location.href));
        const { Model } = await import(new URL("model.js", location.href));
        const of = async (place) => (await fetch(place)).json();
        const lab = await of("lab.json");
        const labels = [0, 1, 2];
        const recorded = await recordedRun(lab.recorded, labels);
        const model = new Model();
        await model.load(lab, await of("model/manifest.json"));
        const frames = [];
        const seeds = labels.map(() => lab.recorded.seed);
        await model.run({ labels, seeds }, { onFrame: (frame) => frames.push(frame) });
        model.close();
        let furthest = frames.length === recorded.length ? 0 : 256;
        frames.forEach((frame, index) => {
            const { side, data } = recorded[index].picture;
            const scale = side / frame.picture.side;
            frame.picture.data.forEach((value, place) => {
                const [pixel, channel] = [Math.floor(place / 4), place % 4];
                const width = frame.picture.side;
                const [image, rest] = [Math.floor(pixel / width ** 2), pixel % width ** 2];
                const [y, x] = [Math.floor(rest / width) * scale, (rest % width) * scale];
                const other = data[((image * side + y) * side + x) * 4 + channel];
                furthest = Math.max(furthest, Math.abs(value - other));
            });
        });
        return furthest;
    }""")
    assert furthest <= 1
