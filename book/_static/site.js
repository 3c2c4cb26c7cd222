// The theme's two buttons with handlers in attributes, which the policy forbids.
document.addEventListener("click", function (event) {
  const button = event.target.closest && event.target.closest("[data-do]");
  if (!button) return;
  if (button.dataset.do === "window.print") window.print();
  else if (window.toggleFullScreen) window.toggleFullScreen();
});

// A reference to a statement, equation, figure or exercise of any page shows it while the mouse
// rests on it, or while it has the focus. Pages are fetched from this site only, once each.
(function () {
  const WAIT = 250; // ms before it opens and before it closes
  const pages = new Map();
  let tip = null;
  let timer = 0;

  async function target(link) {
    const url = new URL(link.href);
    const id = decodeURIComponent(url.hash.slice(1));
    const here = url.pathname === location.pathname;
    if (!here && !location.protocol.startsWith("http")) return null;
    if (!here && !pages.has(url.pathname)) {
      const text = fetch(url.pathname).then((answer) => (answer.ok ? answer.text() : ""));
      pages.set(url.pathname, text.then((t) => new DOMParser().parseFromString(t, "text/html")));
    }
    const page = here ? document : await pages.get(url.pathname);
    const found = page.getElementById(id);
    const box = found && found.closest(".proof, .exercise, figure, div.math");
    if (!box) return null;
    const copy = box.cloneNode(true);
    for (const node of copy.querySelectorAll(".headerlink, .checked-by")) node.remove();
    for (const node of [copy, ...copy.querySelectorAll("[id]")]) node.removeAttribute("id");
    for (const node of copy.querySelectorAll("[src]")) node.src = new URL(node.getAttribute("src"), url);
    for (const node of copy.querySelectorAll("a[href]")) node.href = new URL(node.getAttribute("href"), url);
    return copy;
  }

  function close() {
    clearTimeout(timer);
    if (tip) tip.remove();
    tip = null;
  }

  async function open(link) {
    const copy = await target(link).catch(() => null);
    close();
    if (!copy || !(link.matches(":hover") || link === document.activeElement)) return;
    tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "tooltip");
    tip.append(copy);
    document.querySelector("main").append(tip);
    if (window.MathJax?.typesetPromise && !copy.querySelector("mjx-container"))
      await window.MathJax.typesetPromise([tip]);
    if (!tip) return;
    const at = link.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = at.bottom + tip.offsetHeight + 8 > window.innerHeight && at.top > tip.offsetHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, room)) + window.scrollX}px`;
    tip.style.top = `${(above ? at.top - tip.offsetHeight - 6 : at.bottom + 6) + window.scrollY}px`;
    tip.addEventListener("pointerenter", () => clearTimeout(timer));
    tip.addEventListener("pointerleave", later);
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(close, WAIT);
  }

  document.addEventListener("DOMContentLoaded", function () {
    for (const link of document.querySelectorAll(".bd-article a.internal[href*='#']")) {
      const soon = () => {
        clearTimeout(timer);
        timer = setTimeout(open, WAIT, link);
      };
      link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && soon());
      link.addEventListener("focus", soon);
      link.addEventListener("pointerleave", later);
      link.addEventListener("blur", later);
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  });
})();
