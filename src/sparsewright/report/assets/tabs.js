"use strict";
// Tabs that follow the ARIA Authoring Practices: one tab stop, arrow keys, Home and End.

const report = JSON.parse(document.getElementById("data").textContent);
const tabs = [...document.querySelectorAll("[role=tab]")];

function selectTab(tab, focus) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  const panel = document.getElementById(tab.getAttribute("aria-controls"));
  panel.dispatchEvent(new Event("shown"));
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => selectTab(tab, false));
  tab.addEventListener("keydown", (event) => {
    const last = tabs.length - 1;
    const goal = {
      ArrowRight: index === last ? 0 : index + 1,
      ArrowLeft: index === 0 ? last : index - 1,
      Home: 0,
      End: last,
    }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    selectTab(tabs[goal], true);
  });
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
