// Two pieces of the current run, the latest that this page has made or opened. The run itself, which
// no tab holds: its link stands in the address of the page, its value comes from shared/current.py, or
// from another component as the detail of `ecar:current`. And, in a tab, its link to copy, with the
// earlier runs of this browser. `element`, `props` and `watch` come from Gradio's HTML component; which
// of the two this is, its template says.

const KEPT = "ecar-runs"; // in localStorage: [{ title, query }], newest first
const MOST = 24;
const root = element.querySelector(".current, .current-run");

// The address with this run in it; parameters that are not a run's stay.
function address(query) {
  const all = [looks(), query].filter(Boolean).join("&");
  return `${location.pathname}${all ? "?" + all : ""}`;
}

function kept() {
  try {
    const runs = JSON.parse(localStorage.getItem(KEPT));
    return Array.isArray(runs) ? runs.filter((run) => run?.title && run?.query) : [];
  } catch {
    return []; // a browser that keeps nothing, or something else under that name
  }
}

// -- the run ----------------------------------------------------------------------------------------

function keep({ title, query }) {
  const runs = [{ title, query }, ...kept().filter((run) => run.query !== query)];
  try {
    localStorage.setItem(KEPT, JSON.stringify(runs.slice(0, MOST)));
  } catch {}
}

function run() {
  const show = () => {
    const view = props.value;
    if (view?.page !== undefined) return location.replace(pageAddress(view.page, location.search));
    window.ecarCurrent = view;
    if (view) history.replaceState(history.state, "", address(view.query));
    if (view?.query && !view.go) keep(view); // one that a link names is kept when it has been made
    document.dispatchEvent(new Event("ecar:current-shown"));
  };
  document.addEventListener("ecar:current", (event) => {
    props.value = event.detail;
    show();
  });
  watch("value", show);
  show();
}

// -- its link, and earlier runs -----------------------------------------------------------------------

function links() {
  const copy = make("button", "copy", "Copy link", root);
  copy.type = "button";
  const said = make("span", "said", "", root);
  said.setAttribute("aria-live", "polite");
  const earlier = make("details", "", "", root);
  const summary = make("summary", "", "", earlier);
  const list = make("ul", "", "", earlier);

  function show() {
    const view = window.ecarCurrent;
    copy.disabled = !view?.query;
    said.textContent = view && !view.query
      ? "This run is too long for a link: save its recipe in the tab Runs."
      : "";
    const runs = kept().filter(({ query }) => query !== view?.query);
    earlier.hidden = !runs.length;
    summary.textContent = `Earlier runs (${runs.length})`;
    list.replaceChildren();
    for (const { title, query } of runs) {
      make("a", "", title, make("li", "", "", list)).href = address(query);
    }
  }

  copy.addEventListener("click", async () => {
    const link = `${location.origin}${location.pathname}?${window.ecarCurrent.query}`;
    try {
      await navigator.clipboard.writeText(link);
      said.textContent = "Copied: whoever opens it gets this very image.";
    } catch {
      said.textContent = "Copy the address of this page: whoever opens it gets this very image.";
    }
  });
  document.addEventListener("ecar:current-shown", show);
  show();
}

if (root.classList.contains("current")) links();
else run();
