// The mode for a talk: large type, nothing to scroll, keys for all, the run stage by stage, and notes
// for the speaker. `?present` in the address opens it. `element` and `props` come from Gradio.

const KEYS = [
  ["Space", "play or pause; at the end of a stage: on to the next one"],
  ["← →", "one step back or on"],
  ["G", "generate another run"],
  ["1 – 9", "the tabs"],
  ["C", "show or hide the controls"],
  ["N", "show or hide the speaker's notes"],
  ["?", "show or hide these keys"],
  ["P", "begin or leave this mode"],
  ["Esc", "leave"],
];
// Where keys are for typing, or have a meaning of their own.
const FIELDS = "input, textarea, select, [contenteditable=true], dialog, [role=dialog], [role=textbox], [role=combobox], [role=listbox], [role=option], [role=slider], [role=spinbutton], [role=gridcell], [role=radio], [role=menu]";
const page = document.documentElement;
const root = element.querySelector(".present");
const { notes, parts } = props.value;
const last = Math.max(...parts.filter(({ part }) => part === "flow").map(({ stage }) => stage));

const opener = make("button", "open", "Present", root);
opener.type = "button";
opener.setAttribute("aria-pressed", "false");
opener.addEventListener("click", () => present(!presenting()));

const foot = make("aside", "present-notes", "", document.querySelector(".gradio-container"));
foot.setAttribute("aria-label", "Speaker's notes");
foot.hidden = true;
const keys = make("section", "present-keys", "", document.querySelector(".gradio-container"));
keys.setAttribute("aria-label", "Keys");
keys.hidden = true;
make("h2", "", "Keys", keys);
const table = make("dl", "", "", keys);
for (const [key, meaning] of KEYS) {
  make("dt", "", key, table);
  make("dd", "", meaning, table);
}

let noted = true; // whether the notes are wanted
let place = null; // where the open tab is

const presenting = () => page.classList.contains("present");
const tabs = () => [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")];
const openName = () => tabs().find((tab) => tab.ariaSelected === "true")?.textContent.trim();

const measure = () => page.classList.toggle("low", innerHeight < 900);
addEventListener("resize", measure);
measure();

function present(on) {
  page.classList.toggle("present", on);
  opener.textContent = on ? "Leave" : "Present";
  opener.setAttribute("aria-pressed", String(on));
  if (!on) {
    page.classList.remove("controls");
    keys.hidden = true;
  }
  const rest = location.search.slice(1).split("&").filter((part) => part && !/^present(=|$)/.test(part));
  const all = on ? ["present", ...rest] : rest;
  history.replaceState(history.state, "", location.pathname + (all.length ? `?${all.join("&")}` : ""));
  write();
  dispatchEvent(new Event("resize")); // for those that follow the room there is
}

function note() {
  const { part, stage } = place ?? {};
  if (!part) return notes.tabs[openName()] ?? "";
  if (part === "flow" && stage === last) return notes["flow-last"];
  return (stage === 0 && notes[`${part}-first`]) || notes[part];
}

function write() {
  foot.hidden = !(presenting() && noted);
  const words = note();
  if (foot.textContent === words) return;
  foot.replaceChildren();
  if (words) make("p", "", words, foot);
}

document.addEventListener("ecar:at", ({ detail }) => {
  if (detail.from && !detail.from.offsetParent) return; // a tab that is not open
  place = detail.view ? { part: detail.part, stage: detail.stage } : null;
  write();
});
new MutationObserver((changes) => {
  if (!changes.some(({ target }) => target.matches("#tabs [role=tab]"))) return;
  place = null;
  write();
}).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });

const drive = (what) => document.dispatchEvent(new CustomEvent("ecar:drive", { detail: what }));
function generate() {
  const shown = (id) => document.querySelector(id)?.offsetParent;
  if (shown("#overview-dice")) return document.querySelector("#overview-dice").click();
  openTab("Generate");
  press("#generate");
}

function act(key) {
  if (key === "p") return present(!presenting());
  if (!presenting()) return false;
  if (key === "escape") {
    if (keys.hidden) present(false);
    else keys.hidden = true;
  } else if (key === " ") drive("toggle");
  else if (key === "arrowleft") drive("back");
  else if (key === "arrowright") drive("on");
  else if (key === "g") generate();
  else if (key === "c") {
    page.classList.toggle("controls");
    dispatchEvent(new Event("resize"));
  } else if (key === "n") {
    noted = !noted;
    write();
    dispatchEvent(new Event("resize"));
  } else if (key === "?") keys.hidden = !keys.hidden;
  else if (/^[1-9]$/.test(key)) tabs()[Number(key) - 1]?.click();
  else return false;
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const { target } = event;
  if (target.closest?.(FIELDS)) return;
  // Space presses the button that a keyboard has come to, not one that was clicked.
  if (key === " " && target.matches?.("button, a, summary, [role=button]") && target.matches(":focus-visible")) return;
  if (act(key) !== false) event.preventDefault();
});

present(new URLSearchParams(location.search).has("present"));
