// Definitions of the glossary's words, on hover and on keyboard focus. Escape closes; a touch follows the link.
(function () {
  "use strict";
  var links = document.querySelectorAll("a.bt-term[data-definition]");
  if (!links.length) return;
  var box = document.createElement("div"), shown = null, leaving = 0;
  box.id = "bt-definition";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.appendChild(box);

  function show(link) {
    clearTimeout(leaving);
    if (shown === link) return;
    hide();
    shown = link;
    box.textContent = link.dataset.definition;
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    var at = link.getClientRects()[0], size = box.getBoundingClientRect();
    var left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8));
    var below = at.bottom + 6 + size.height <= innerHeight || at.top < size.height + 6;
    box.style.left = left + "px";
    box.style.top = (below ? at.bottom + 4 : at.top - size.height - 4) + "px";
  }

  function hide() {
    clearTimeout(leaving);
    if (!shown) return;
    shown.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  }

  function leave() { clearTimeout(leaving); leaving = setTimeout(hide, 150); }  // time to move onto the box

  links.forEach(function (link) {
    link.addEventListener("pointerenter", function (event) { if (event.pointerType !== "touch") show(link); });
    link.addEventListener("pointerleave", leave);
    link.addEventListener("focus", function () { if (link.matches(":focus-visible")) show(link); });
    link.addEventListener("blur", hide);
  });
  box.addEventListener("pointerenter", function () { clearTimeout(leaving); });
  box.addEventListener("pointerleave", leave);
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { passive: true });
})();
