// The choice of the checkpoint. Each has a page of its own; class and seed of this one go along.

const root = element.querySelector(".picker");
const label = make("label", "", "Checkpoint", root);
const select = make("select", "", "", label);
const words = make("span", "words", "", root);
words.setAttribute("aria-live", "polite");

function tell() {
  words.textContent = props.value.entries.find((one) => one.name === select.value)?.words ?? "";
}

function show() {
  const { here, entries } = props.value;
  select.replaceChildren();
  for (const { name, path } of entries) {
    const option = make("option", "", name, select);
    Object.assign(option, { value: name, selected: path === here, disabled: path === null });
  }
  if (!entries.some(({ path }) => path === here)) {
    make("option", "", "(none)", select).selected = true; // the page of one that cannot be opened
  }
  tell();
}

select.addEventListener("change", () => {
  const entry = props.value.entries.find((one) => one.name === select.value);
  tell();
  if (!entry || entry.path === null || entry.path === props.value.here) return;
  const value = (id) => document.querySelector(`#${id} input`)?.value ?? "";
  // Of the tab Generate, whose content comes with its first opening.
  const [name, seed] = [value("generate-class"), value("generate-seed") || value("overview-seed")];
  const going = [new URLSearchParams({ class: name, seed }), looks()].filter(String).join("&");
  words.textContent = `${entry.name} is opened …`;
  location.assign(pageAddress(entry.path, `?${going}`));
});

watch("value", show);
show();
