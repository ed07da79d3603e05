"""The current run: what was made last, for all tabs, for the page's address and for a link.

A tab that makes a run tells of it (:meth:`CurrentRun.after`, :meth:`CurrentRun.after_asking`); one
that has controls of a run follows when it is opened. What a link or a reload brings is the current
run, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from apps.shared.links import checkpoint_of, query_of, settings_of
from apps.shared.parts import (
    PRIVATE,
    RunControls,
    banner,
    script,
    spoken_errors,
    visitor,
)
from apps.shared.recipes import Origin, check_settings
from apps.shared.settings import Settings
from apps.shared.studio import Studio
from ecar_lab.errors import EcarError

# Updates of a tab that put a run's settings there.
Show = Callable[[Settings], dict[Any, Any]]
QUICK: dict[str, Any] = {"queue": False, **PRIVATE}
# Presses a button of another tab, as soon as that is there.
PRESS = (
    "(view) => {{ const press = () => {{ const button = document.querySelector({button});"
    " if (button && !button.disabled) button.click(); else setTimeout(press, 50); }};"
    " if ({condition}) press(); }}"
)


def view_of(settings: Settings, origin: Origin) -> dict[str, Any]:
    """A run as the page holds it: settings, their words, the query of its link, and whether
    something is changed on its way."""
    return {
        "settings": settings.to_json(),
        "title": str(settings),
        "query": query_of(settings, origin),
        "changed": settings != settings.plain(),
    }


class CurrentRun:
    """The current run, and where it is made the place of its link.

    ``run`` has the value of :func:`view_of`, None as long as nothing was made. It is to be rendered
    outside the tabs: Gradio mounts what a tab holds when that is opened, and a run may be made, or
    come with a link, before.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio, self.origin = studio, Origin.of(studio)
        self.run, _ = (
            gr.HTML(
                None,
                html_template=f'<div class="{name}"></div>',
                js_on_load=script("shared/current.js"),
                apply_default_css=False,
                elem_id=name,
                render=name == "current",
            )
            for name in ("current-run", "current")
        )

    def view(self, settings: Settings) -> dict[str, Any]:
        """What the page holds of a run."""
        return view_of(settings, self.origin)

    def settings(self, view: Any) -> Settings:
        """The settings in a view, which comes back from the page; the model's own without one.

        Raises:
            EcarError: they are none, or do not fit the model.
        """
        if not isinstance(view, dict) or not isinstance(view.get("settings"), dict):
            return self.studio.defaults()
        settings = Settings.from_json(view["settings"])
        check_settings(self.studio.pipeline.model, settings)
        return settings

    # -- who tells ---------------------------------------------------------------------------------

    def after(self, event: Any) -> None:
        """After this event the visitor's latest run is the current one."""

        def latest(request: gr.Request) -> Any:
            runs = self.studio.folders.runs(visitor(request))
            return self.view(runs[-1].settings) if runs else gr.skip()

        event.success(latest, None, self.run, **QUICK)

    def after_asking(self, event: Any, controls: RunControls) -> None:
        """After this event, what the controls say is the current run."""

        def asked(*values: Any) -> Any:
            try:
                return self.view(controls.settings(*values))
            except EcarError:  # which the event itself has said
                return gr.skip()

        event.success(asked, controls.inputs, self.run, **QUICK)

    # -- who follows -------------------------------------------------------------------------------

    def follow(self, tab: gr.Tab, show: Show, shown: list) -> None:
        """When the tab is opened it shows the current run, unless it has shown that one already:
        what was chosen there since then stays. ``show`` returns the updates."""
        seen = gr.State(None)

        def opened(view: Any, known: Any) -> dict[Any, Any]:
            if view is None or view.get("query") == known:
                return {seen: known}
            with spoken_errors():
                return {seen: view.get("query"), **show(self.settings(view))}

        tab.select(opened, [self.run, seen], [seen, *shown], **QUICK)

    def bring(
        self, button: gr.Button, tabs: gr.Tabs, tab: gr.Tab,
        show: Show, shown: list, press: str, condition: str = "true",
    ) -> None:  # fmt: skip
        """The button opens a tab, puts the current run there, and presses a button of it, if the
        ``condition`` on ``view`` holds."""

        def brought(view: Any) -> dict[Any, Any]:
            with spoken_errors():
                return {tabs: gr.Tabs(selected=tab.id), **show(self.settings(view))}

        button.click(brought, self.run, [tabs, *shown], **QUICK).success(
            None, self.run, None, js=PRESS.format(button=press, condition=condition), **PRIVATE
        )

    # -- a link or a reload ------------------------------------------------------------------------

    def open_link(
        self, page: gr.Blocks, tabs: gr.Tabs, tab: gr.Tab,
        show: Show, shown: list, press: str,
        notice: gr.HTML, page_of: Callable[[str], str | None],
    ) -> None:  # fmt: skip
        """When the page is loaded, the run that its address names is put into ``tab`` and made. A
        run of another checkpoint is made on the page of that one, if ``page_of`` its name knows
        one. ``notice`` has the place for what has to be said."""

        def opened(query: Any) -> dict[Any, Any]:
            query = str(query or "")
            named = checkpoint_of(query)
            if named != self.origin.checkpoint and (other := page_of(named)) is not None:
                return {self.run: {"page": other}}
            try:
                found = settings_of(query, self.studio.pipeline.model, self.origin)
            except EcarError as error:
                return {notice: banner(str(error))}
            if found is None:
                return {notice: ""}
            settings, doubt = found
            return {
                tabs: gr.Tabs(selected=tab.id),
                notice: banner(doubt),
                self.run: {**self.view(settings), "go": True},
                **show(settings),
            }

        page.load(
            opened, self.run, [notice, self.run, tabs, *shown],
            js="() => [location.search]", **QUICK,
        ).success(
            None, self.run, None, js=PRESS.format(button=press, condition="view?.go"), **PRIVATE
        )  # fmt: skip
