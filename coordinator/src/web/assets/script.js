// What pages do more where scripts run. Everything essential works without this file.
"use strict";

// Live figures: the server says that something changed, htmx fetches what asks for it.
if (window.EventSource && document.querySelector(".shell")) {
  const source = new EventSource("/events");
  let first = true;
  source.addEventListener("mesh", (event) => {
    const state = JSON.parse(event.data);
    for (const badge of document.querySelectorAll("[data-live=waiting]")) badge.textContent = state.waiting;
    // Not while somebody is about to press something in what would be replaced.
    const busy = document.querySelector("#live details[open], #list details[open]");
    if (!first && !busy && window.htmx) window.htmx.trigger(document.body, "mesh-changed");
    first = false;
  });
  window.addEventListener("pagehide", () => source.close());
}

// Copy buttons.
for (const button of document.querySelectorAll("[data-copies]")) {
  const text = button.parentElement.querySelector("[data-copy]");
  if (!navigator.clipboard || !text) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// One open question at a time; Escape closes it.
document.addEventListener("toggle", (event) => {
  if (!event.target.matches("details.ask") || !event.target.open) return;
  for (const other of document.querySelectorAll("details.ask[open]")) if (other !== event.target) other.open = false;
}, true);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const open of document.querySelectorAll("details.ask[open]")) { open.open = false; open.querySelector("summary").focus(); }
  }
  // "/" goes to the search, as in many lists.
  if (event.key === "/" && !event.target.closest("input, textarea, select")) {
    const search = document.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  }
});

// Policy editor: line numbers that follow the text, remarks that lead to their place.
for (const editor of document.querySelectorAll("[data-editor]")) {
  const area = editor.querySelector("textarea");
  const lines = editor.querySelector(".editor-lines");
  const number = () => {
    const count = area.value.split("\n").length;
    if (lines.children.length !== count) {
      lines.replaceChildren(...Array.from({ length: count }, (_, n) => {
        const span = document.createElement("span");
        span.id = `line-${n + 1}`;
        span.textContent = n + 1;
        return span;
      }));
    }
  };
  const go = (line, column) => {
    const text = area.value.split("\n");
    const start = text.slice(0, line - 1).reduce((sum, t) => sum + t.length + 1, 0) + Math.max(0, column - 1);
    area.focus();
    area.setSelectionRange(start, start);
    const height = parseFloat(getComputedStyle(area).lineHeight) || 20;
    area.scrollTop = Math.max(0, (line - 6) * height);
    for (const span of lines.children) span.classList.toggle("here", span.textContent === String(line));
  };
  area.addEventListener("input", number);
  area.addEventListener("scroll", () => { lines.scrollTop = area.scrollTop; });
  area.addEventListener("keydown", (event) => {
    // Tab leaves the field, as everywhere; Ctrl-Enter reviews.
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form.requestSubmit();
  });
  for (const button of document.querySelectorAll("[data-line]")) {
    button.addEventListener("click", () => go(Number(button.dataset.line), Number(button.dataset.column)));
  }
  const named = /^#line-(\d+)$/.exec(location.hash);
  if (named) go(Number(named[1]), 1);
}
