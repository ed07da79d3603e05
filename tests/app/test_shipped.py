"""One visit to the real page on the checkpoint it opens with, tab by tab, as a person makes it."""

from apps import demo
from ecar_lab.errors import EcarError
from ecar_lab.pipeline import ECARPipeline
from tests.app.page import DONE, NO_TOUR, QUIET, download, load, open_generate, open_tab
from tests.browsing import PATIENCE, free_port

pytestmark = QUIET

SAYS = "words => document.querySelector('%s').textContent.includes(words)"


def test_a_visit_to_every_tab_of_the_shipped_model(browser, tmp_path, monkeypatch):
    page, address = demo.launch(port=free_port(), block=False)
    try:
        context = browser.new_context(reduced_motion="reduce")
        context.add_init_script(NO_TOUR)
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        open_generate(tab, address)
        assert "ship, seed 31" in tab.inner_text("#generate-player .status")

        controls = tab.locator("#generate-controls")
        controls.get_by_label("fast", exact=True).check()
        tab.wait_for_function(
            "document.querySelector('#generate-more input[type=number]')?.value === '2' || "
            "!document.querySelector('#generate-more input[type=number]')"
        )
        tab.get_by_role("button", name="Generate", exact=True).click()
        tab.wait_for_function(DONE % "ship, seed 31")
        tab.get_by_label("Step of the run").focus()
        tab.keyboard.press("Home")
        assert "pure noise" in tab.inner_text("#generate-player .status")
        tab.keyboard.press("End")
        assert "Stage 3, flow step" in tab.inner_text("#generate-player .status")

        open_tab(tab, "Compare")
        tab.get_by_label("number input for Steps, DiT").fill("2")
        tab.get_by_label("number input for Steps, DiT").press("Tab")
        tab.get_by_role("button", name="Compare", exact=True).click()
        tab.wait_for_selector("table:has-text('1,693,056')")

        open_tab(tab, "Inspect")
        tab.get_by_role("button", name="Inspect my latest run").click()
        tab.wait_for_selector("text=Open: ship, seed 31")

        open_tab(tab, "Intervene")
        tab.get_by_role("button", name="My latest run as base").click()
        said = SAYS % ".results .status"
        tab.wait_for_function(said, arg="ship, seed 31")
        tab.get_by_role("button", name="Fork", exact=True).click()
        tab.wait_for_function(said, arg="forked after stage 1")
        tab.get_by_role("tab", name="Paint", exact=True).click()
        tab.get_by_role("button", name="All", exact=True).click()
        tab.get_by_role("button", name="Replace what is painted").click()
        tab.wait_for_function(said, arg="16 latent pixels at the end of stage 1")

        open_tab(tab, "Tokenizer")
        tab.wait_for_selector("text=dB from 1,024 latent numbers")

        open_tab(tab, "Runs")
        tab.locator(".history input").first.check()
        tab.wait_for_selector("#runs-details:has-text('16 latent pixels')")
        load(tab, download(tab, "recipe", ".json", tmp_path))
        tab.wait_for_selector("#runs-status .same:has-text('Identical')")

        def refuse(self, *args, **kwargs):
            raise EcarError("guidance nan is not finite: use 1 or more")

        monkeypatch.setattr(ECARPipeline, "trace", refuse)
        open_tab(tab, "Generate")
        tab.get_by_role("button", name="Generate", exact=True).click()
        tab.wait_for_selector("#generate-banner [role=alert]:has-text('Guidance nan')")
        context.close()
    finally:
        page.close()
