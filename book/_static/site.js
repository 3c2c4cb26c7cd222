// The theme's two buttons with handlers in attributes, which the policy forbids.
document.addEventListener("click", function (event) {
  const button = event.target.closest && event.target.closest("[data-do]");
  if (!button) return;
  if (button.dataset.do === "window.print") window.print();
  else if (window.toggleFullScreen) window.toggleFullScreen();
});
