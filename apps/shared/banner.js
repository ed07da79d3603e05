// A sentence that nobody may overlook comes into sight, wherever the page has been scrolled to.

watch("value", () => element.querySelector(".banner")?.scrollIntoView({ block: "nearest" }));
