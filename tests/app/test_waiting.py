"""What an event of a tab says to the page, update by update."""

import gradio as gr

from apps.shared.waiting import in_sentences
from ecar_lab.errors import EcarError


class Tab:
    """A tab with one event, which shows a view, fills a field and names a file."""

    def __init__(self):
        self.banner, self.view, self.field = gr.HTML(""), gr.HTML({}), gr.Number()
        self.picture, self.stop = gr.Image(), gr.Button()

    @in_sentences
    def run(self, fails=False):
        yield {self.view: {"frames": 1}, self.field: 7}
        yield {self.view: {"frames": 2}, self.picture: gr.Image("cat.png")}
        if fails:
            raise EcarError("there is no cat")
        yield {self.view: {"frames": 3}}


def test_an_update_that_the_page_changes_in_place_is_said_to_the_end():
    tab = Tab()
    updates = list(tab.run())
    views = [update.get(tab.view) for update in updates]
    assert views == [None, {"frames": 1}, {"frames": 2}, {"frames": 3}, {"frames": 3}]
    pictures = [tab.picture in update for update in updates]
    assert pictures == [False, False, True, True, True]
    fields = [update.get(tab.field) for update in updates]
    assert fields == [None, 7, None, None, None]  # who changes it meanwhile keeps what they chose
    stops = [update[tab.stop]["interactive"] for update in updates]
    assert stops == [True, True, True, True, False]


def test_a_run_that_fails_keeps_what_it_has_shown():
    tab = Tab()
    *_, last = tab.run(fails=True)
    assert "There is no cat" in last[tab.banner]
    assert last[tab.view] == {"frames": 2}
    assert not last[tab.stop]["interactive"]
