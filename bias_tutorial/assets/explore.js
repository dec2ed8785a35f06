// Shows what Python computed; see bias_tutorial/explore.py. It adds up a score and calculates nothing else.
(function () {
  "use strict";

  // Sliders: pick the frame at their position (the last control varies fastest) and show it.
  function explorer(root, data) {
    const sliders = Array.from(root.querySelectorAll("input[type=range]"));
    const settings = root.querySelectorAll(".bt-setting");
    const picture = root.querySelector(".bt-picture");
    const values = root.querySelectorAll("dd");
    let shown = data.start;

    function show() {
      let place = 0;
      sliders.forEach(function (slider, k) {
        const setting = data.settings[k][Number(slider.value)];
        place = place * data.settings[k].length + Number(slider.value);
        slider.setAttribute("aria-valuetext", setting);
        settings[k].textContent = setting;
      });
      if (place === shown) return;
      shown = place;
      const frame = data.frames[place];
      if (picture) picture.innerHTML = data.pictures[frame.picture];
      root.querySelector(".bt-text").textContent = frame.text;
      frame.values.forEach(function (value, k) {
        values[k].textContent = value[0];
        values[k].dataset.value = value[1];
      });
    }

    sliders.forEach(function (slider) { slider.addEventListener("input", show); });
    root.querySelector(".bt-controls").hidden = false;
    show(); // a browser may have kept the sliders' positions from an earlier visit
  }

  // One picture at a time: choose, be told, go on; at the end the score beside guessing.
  function game(root, data) {
    const items = Array.from(root.querySelectorAll(".bt-items > li"));
    const choices = root.querySelector(".bt-choices");
    const buttons = Array.from(choices.querySelectorAll("button"));
    const next = root.querySelector(".bt-next");
    const text = root.querySelector(".bt-text");
    const progress = root.querySelector(".bt-progress");
    let at = 0, score = 0, rounds = 0;

    function show() {
      items.forEach(function (item, k) { item.hidden = k !== at; });
      buttons.forEach(function (button) { button.disabled = false; button.removeAttribute("aria-pressed"); });
      choices.hidden = at >= items.length;
      next.hidden = at < items.length;
      next.textContent = "Play again";
      text.textContent = "";
      count();
    }

    function count() {
      progress.textContent = "Picture " + Math.min(at + 1, items.length) + " of " + items.length + ", right so far: " + score;
      progress.hidden = at >= items.length;
      root.dataset.score = score;
    }

    function choose(chosen) {
      const right = chosen === data.items[at].answer;
      score += right ? 1 : 0;
      buttons.forEach(function (button, k) { button.disabled = true; button.setAttribute("aria-pressed", k === chosen); });
      text.textContent = (right ? "Right. " : "Not this time. ") + data.items[at].told;
      next.textContent = at + 1 < items.length ? "Next picture" : "See the score";
      next.hidden = false;
      count();
      next.focus();
    }

    function advance() {
      if (at >= items.length) { at = score = 0; rounds += 1; } else { at += 1; }
      show();
      if (at < items.length) { items[at].focus({ preventScroll: true }); return; }
      text.textContent = data.endings[score] + (rounds ? " " + data.again : "");
      text.dataset.value = data.luck[score];
      next.focus();
    }

    items.forEach(function (item) { item.querySelector("details").hidden = true; });
    buttons.forEach(function (button, k) { button.addEventListener("click", function () { choose(k); }); });
    next.addEventListener("click", advance);
    show();
  }

  // Every output carries this script; each run takes up only what no earlier run has.
  function start() {
    document.querySelectorAll(".bt-explore:not([data-ready])").forEach(function (root) {
      const data = root.querySelector("script[type='application/json']");
      if (!data) return;
      root.dataset.ready = "yes";
      root.querySelector(".bt-still").hidden = true;
      // Keys pressed here are meant for the sliders and buttons, not for the page's or the notebook's shortcuts.
      root.addEventListener("keydown", function (event) { event.stopPropagation(); });
      ({ explorer: explorer, game: game })[root.dataset.kind](root, JSON.parse(data.textContent));
    });
  }

  start();
})();
