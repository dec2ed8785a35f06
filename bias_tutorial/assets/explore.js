// Shows what Python computed; see bias_tutorial/explore.py and point_map.py. It adds up a score, finds the point of a
// map that is nearest to the pointer or in the direction of a key, and calculates nothing else.
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

  // A map of points: the slider says where they lie, the list what they show; pointer and keys pick one of them.
  function map(root, data) {
    const slider = root.querySelector("input"), list = root.querySelector("select");
    const area = root.querySelector(".bt-map"), svg = area.querySelector("svg");
    const points = area.querySelectorAll("path"), ring = area.querySelector("circle");
    const canvas = root.querySelector("canvas"), values = root.querySelectorAll("dd");
    const sheet = new Image(), last = points.length - 1;
    let places, at = 0;

    function move(mark, k) { mark.style.transform = "translate(" + places[k][0] + "px," + places[k][1] + "px)"; }

    function draw() {
      const setting = data.settings[slider.value], shown = data.attributes[list.value];
      places = data.maps[slider.value];
      slider.setAttribute("aria-valuetext", setting);
      root.querySelector(".bt-setting").textContent = setting;
      root.querySelector(".bt-legend").innerHTML = shown.legend;
      svg.setAttribute("aria-label", points.length + " points at " + setting + ", " + shown.words);
      points.forEach(function (point, k) {
        point.setAttribute("d", shown.looks[shown.of[k]][0]);
        point.setAttribute("fill", shown.looks[shown.of[k]][1]);
        move(point, k);
      });
      move(ring, at);
    }

    function pick(k) {
      at = k;
      move(ring, k);
      root.querySelector(".bt-name").textContent = "Point " + (k + 1) + " of " + points.length;
      canvas.setAttribute("aria-label", "Image of point " + (k + 1));
      canvas.getContext("2d").drawImage(sheet, -canvas.width * (k % data.columns),
                                        -canvas.height * Math.floor(k / data.columns));
      data.values[k].forEach(function (value, j) {
        values[j].textContent = value[0];
        values[j].dataset.value = value[1];
      });
    }

    // Said for keys, clicks and taps, not for every point that a mouse passes.
    function say() {
      root.querySelector(".bt-said").textContent = "Point " + (at + 1) + ", image and values: " +
        data.values[at].map(function (value, j) { return data.names[j] + " " + value[0]; }).join(", ");
    }

    function nearest(x, y, allowed) {
      let found = at, least = Infinity;
      places.forEach(function (place, k) {
        const dx = place[0] - x, dy = place[1] - y, far = dx * dx + dy * dy;
        if (far < least && (!allowed || allowed(dx, dy))) { found = k; least = far; }
      });
      return found;
    }

    function under(event) {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      pick(nearest(place.x, place.y));
    }

    // The nearest point in the quarter of the plane around a direction.
    function toward(right, down) {
      return nearest(places[at][0], places[at][1], function (dx, dy) {
        const along = dx * right + dy * down;
        return along > 0 && along >= Math.abs(dx * down + dy * right);
      });
    }

    const keys = {
      ArrowRight: function () { return toward(1, 0); }, ArrowLeft: function () { return toward(-1, 0); },
      ArrowDown: function () { return toward(0, 1); }, ArrowUp: function () { return toward(0, -1); },
      PageUp: function () { return Math.max(at - 1, 0); }, PageDown: function () { return Math.min(at + 1, last); },
      Home: function () { return 0; }, End: function () { return last; },
    };
    area.addEventListener("keydown", function (event) {
      if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      pick(keys[event.key]());
      say();
    });
    area.addEventListener("focus", say);
    area.addEventListener("pointermove", function (event) { if (event.pointerType !== "touch") under(event); });
    area.addEventListener("click", function (event) { under(event); say(); });
    slider.addEventListener("input", draw);
    list.addEventListener("input", draw);
    sheet.onload = function () { pick(at); };
    sheet.src = data.sheet;
    area.tabIndex = 0;
    area.setAttribute("role", "application");
    area.setAttribute("aria-label", data.help);
    ring.setAttribute("r", 9);
    root.querySelectorAll(".bt-controls, .bt-point, .bt-hint").forEach(function (part) { part.hidden = false; });
    draw();
    pick(at);
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
      ({ explorer: explorer, game: game, map: map })[root.dataset.kind](root, JSON.parse(data.textContent));
    });
  }

  start();
})();
