"""The whole page for people who do not see well or use no mouse: axe-core looks at every tab, light
and dark, and on a phone."""

import pytest

from apps.demo import TABS
from tests.app.page import GROWN, QUIET, open_tab
from tests.browsing import PATIENCE

pytestmark = QUIET

SERIOUS = ("serious", "critical")
# Gradio's own, which no setting of ours changes: an image without a value is a div with a label.
GRADIOS_OWN = [("aria-prohibited-attr", 'aria-label="Empty value"')]


# The elements of a theme are those of the other one: only what looks at colours may differ.
THEMES = {
    "light": {},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}},
}
BACKGROUND = "getComputedStyle(document.body).getPropertyValue('--body-background-fill')"


@pytest.mark.parametrize(("width", "themes"), [(1440, ["light", "dark"]), (390, ["light"])])
def test_axe_finds_nothing_serious_that_is_ours(browser, demo_address, width, themes):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = browser.new_page(viewport={"width": width, "height": 1000}, reduced_motion="reduce")
    tab.set_default_timeout(PATIENCE)
    tab.goto(f"{demo_address}?__theme=light")  # with the tour's card, as on a first visit
    tab.wait_for_function(GROWN)
    tab.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    found, backgrounds = [], set()
    for name, _ in TABS:
        open_tab(tab, name)
        for theme in themes:
            tab.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            backgrounds.add(tab.evaluate(BACKGROUND))
            options = {"resultTypes": ["violations"], **THEMES[theme]}
            for violation in axe.run(tab, options=options).response["violations"]:
                if violation["impact"] in SERIOUS:
                    found += [
                        (name, theme, violation["id"], node["html"][:160])
                        for node in violation["nodes"]
                        if not gradios_own(violation["id"], node["html"])
                    ]
    tab.close()
    assert len(backgrounds) == len(themes)
    assert found == []


def gradios_own(rule: str, html: str) -> bool:
    """Whether a finding is one of those that are known to be Gradio's."""
    return any(rule == known and part in html for known, part in GRADIOS_OWN)
