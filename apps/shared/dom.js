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

