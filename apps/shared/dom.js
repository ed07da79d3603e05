// What every component of the page begins with: parts.script() puts this before its own file.

function make(tag, className, text, parent) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// The address of a file that the server wrote for this visitor; a picture in a message is its own.
function served(path) {
  if (path.startsWith("data:")) return path;
  return `${window.gradio_config?.root ?? ""}/gradio_api/file=${path}`;
}

// Tells the strip at the top of the page where a part of the page is: `stage` counts from 0, `part` is
// class, up, map, flow or decode. `from` is inside the tab that speaks: the strip shows the open tab's.
function announce(from, stage, part, more) {
  document.dispatchEvent(new CustomEvent("ecar:at", { detail: { from, stage, part, ...more } }));
}

// Opens a tab of the page by its name.
function openTab(name) {
  const tabs = [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")];
  tabs.find((tab) => tab.textContent.trim() === name)?.click();
}

// Presses what a tab holds, once that is there: a tab's content comes with its first opening.
function press(selector, patience = 300) {
  const target = document.querySelector(selector);
  if (target) target.click();
  else if (patience) requestAnimationFrame(() => press(selector, patience - 1));
}

// The part of the address that says how the page looks, whatever it shows.
function looks() {
  const parts = location.search.slice(1).split("&");
  return parts.filter((part) => /^(__|(view|present)(=|$))/.test(part)).join("&");
}

// The address of another page of this server; `query` begins with a question mark.
function pageAddress(path, query) {
  return `${window.gradio_config?.root ?? ""}/${path}${query}`;
}
