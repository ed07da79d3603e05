// An element with words and attributes, at the end of another.
export function make(tag, parent, { text = "", ...attributes } = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}

export const byId = (id) => document.getElementById(id);

// A picture of pixels with its words, which a screen reader reads, too.
export function figure(parent, caption, note = "") {
  const frame = make("figure", parent);
  const canvas = make("canvas", frame, { role: "img", "aria-label": caption, class: "empty" });
  canvas.width = canvas.height = 1;
  const words = make("figcaption", frame, { text: caption });
  if (note) make("span", words, { text: ` ${note}` });
  return canvas;
}
