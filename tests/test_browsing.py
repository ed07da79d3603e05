"""What is told of the pages of a test that failed."""

from tests.browsing import PATIENCE, seen

PAGE = """<title>A title</title><h1>Words</h1><p>More</p><p hidden>Not these</p>
<script>console.log("idle talk"); console.error("a complaint");
throw new Error("a fault");</script>"""


def test_a_page_is_told_by_title_words_and_complaints(browser):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.set_content(PAGE)
    told = seen(browser).splitlines()
    page.close()
    assert told[:3] == ["about:blank", "A title", "Words | More"]
    assert sorted(told[3:]) == ["complaint: a complaint", "complaint: a fault"]
