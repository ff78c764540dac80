// The report's few moving parts: the 3D view, links from a table row to it, and folded parts that print unfolded.
"use strict";
(() => {
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((d) => { d.open = true; d.dataset.folded = "yes"; });
  });
  window.addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-folded]").forEach((d) => { d.open = false; delete d.dataset.folded; });
  });

  const root = document.querySelector(".sddfkit.view");
  if (!root) return;
  const view = sddfkitMount(root);
  const ids = JSON.parse(root.querySelector("script.view-data").textContent).frames.map((frame) => frame.id);
  document.querySelectorAll("a[data-view]").forEach((link) => {
    link.addEventListener("click", () => view?.show(ids.indexOf(link.dataset.view)));
  });
})();
