"""Pictures a reader can move: explorers and a guessing game without kernel or network, and a control for a live kernel.

Python computes every frame beforehand. The page holds them as text, and one small script (``assets/explore.js``) shows
the one that is asked for: it calculates nothing, so what a reader sees is what Python wrote. Without scripts the frame
at the start stays, with its text and values.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import isfinite
from typing import Any

from scipy.stats import binom

from .page import MOST_BYTES as MOST_BYTES
from .page import Output, check_controls, page, printed, setting, slider
from .plotting import Figure, number
from .point_map import point_map as point_map

NO_KERNEL = "This control needs a running kernel: open this chapter in Jupyter or Colab and run the cell there."


@dataclass(frozen=True)
class Frame:
    """What an explorer shows at one position of its sliders.

    Parameters
    ----------
    values : mapping of str to int or float
        Named results, all finite; every frame of an explorer has the same names.
    figure : Figure, optional
        The picture, of the same size in every frame.
    text : str
        One or two sentences; by default the values in words.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    figure: Figure | None = None
    text: str = ""


def explorer(title: str, controls: Mapping[str, Sequence], frame: Callable[..., Frame],
             start: Mapping[str, Any] | None = None, labels: Mapping[str, str] | None = None,
             digits: int = 3) -> Output:
    """Build an explorer: sliders that pick one of the frames computed here.

    Parameters
    ----------
    title : str
        Visible heading and accessible name.
    controls : mapping of str to sequence
        Values of each slider, in order, at least two each; the names are those of ``frame``'s arguments.
    frame : callable
        ``frame(**one value per control)`` gives the :class:`Frame`; called once per combination.
    start : mapping, optional
        Values shown first and in the still picture; by default the middle of each control.
    labels : mapping of str to str, optional
        A longer visible name for a control.
    digits : int
        Digits after the point of a float; whole numbers are written whole. The full value stands in ``data-value``.

    Returns
    -------
    Output
        HTML with everything inside; text/plain is the text of the frame at the start.

    Raises
    ------
    ValueError
        When a control has fewer than two values, there are more than 120 combinations, the start is no value of a
        control, a value is not finite, frames differ in value names or picture size, or the page passes 1.5 MB.
    """
    controls = {name: list(values) for name, values in controls.items()}
    start = check_controls(title, controls, dict(start or {}))
    frames = {key: frame(**dict(zip(controls, key, strict=True))) for key in product(*controls.values())}
    _check_frames(title, frames)
    pictures: dict[str, int] = {}
    rows = []
    for key, shown in frames.items():
        place = ", ".join(setting(name, value) for name, value in zip(controls, key, strict=True))
        values = [[printed(_plain(v), digits), repr(_plain(v))] for v in shown.values.values()]
        words = ", ".join(f"{name} {value[0]}" for name, value in zip(shown.values, values, strict=True))
        picture = shown.figure.svg() if shown.figure else ""
        rows.append({"picture": pictures.setdefault(picture, len(pictures)), "values": values,
                     "text": shown.text or f"{place}: {words}."})
    data = {"settings": [[setting(name, v) for v in values] for name, values in controls.items()],
            "pictures": list(pictures), "frames": rows}
    data["start"] = list(frames).index(tuple(start.values()))
    first = rows[data["start"]]
    body = _explorer_body(controls, start, labels or {}, data, first, frames)
    return Output(page("explorer", title, body, data), f"{title}. {first['text']}")


def _check_frames(title: str, frames: Mapping[tuple, Frame]) -> None:
    """Refuse frames that do not fit each other."""
    first = next(iter(frames.values()))
    size = _size(first)
    for key, shown in frames.items():
        if list(shown.values) != list(first.values) or _size(shown) != size:
            raise ValueError(f"explorer '{title}': the frame at {key} has values {list(shown.values)} and a picture of "
                             f"{_size(shown)}, the first one {list(first.values)} and {size}; they must agree")
        if not shown.values and not shown.text:
            raise ValueError(f"explorer '{title}': the frame at {key} has neither values nor text")
        for name, value in shown.values.items():
            if not isfinite(value):
                raise ValueError(f"explorer '{title}': value '{name}' of the frame at {key} is {value}, not finite")


def _size(frame: Frame) -> str:
    return frame.figure.svg().split('viewBox="')[1].split('"')[0] if frame.figure else "no size"


def _plain(value):
    """Python's own int or float of a number, so that its repr reads the same with every version of NumPy."""
    whole = isinstance(value, int) or (hasattr(value, "dtype") and value.dtype.kind in "iu")
    return int(value) if whole else float(value)


def _explorer_body(controls, start, labels, data, first, frames) -> str:
    sliders = [slider(labels.get(name, name), settings, values.index(start[name]))
               for (name, values), settings in zip(controls.items(), data["settings"], strict=True)]
    at = ", ".join(setting(name, start[name]) for name in controls)
    values = "".join(f'<div><dt>{html.escape(name)}</dt><dd data-value="{exact}">{shown}</dd></div>'
                     for name, (shown, exact) in zip(next(iter(frames.values())).values, first["values"], strict=True))
    picture = data["pictures"][first["picture"]]
    return (f'<div class="bt-controls" hidden>{"".join(sliders)}</div>'
            + (f'<div class="bt-picture">{picture}</div>' if picture else "")
            + f'<p class="bt-text" aria-live="polite">{html.escape(first["text"])}</p>'
            + (f'<dl class="bt-values">{values}</dl>' if values else "")
            + f'<p class="bt-still">A still view at {html.escape(at)}. Where scripts run, sliders move it.</p>')


# ---------------------------------------------------------------------- a game
@dataclass(frozen=True)
class Item:
    """One picture of a guessing game.

    Parameters
    ----------
    figure : Figure
        What is shown. Its text must not give the answer away.
    answer : str
        The right one of the game's choices.
    explanation : str
        What to look at, told after the guess.
    """

    figure: Figure
    answer: str
    explanation: str


def guessing_game(title: str, question: str, items: Sequence[Item], choices: Sequence[str]) -> Output:
    """Build a game: the reader names what each picture shows, and sees how far that is from guessing.

    Parameters
    ----------
    title, question : str
        Heading, and what is asked about every picture.
    items : sequence of Item
        Shown in this order.
    choices : sequence of str
        At least two different answers, the buttons.

    Returns
    -------
    Output
        HTML with everything inside. Without scripts: all pictures, each with its answer folded below.

    Raises
    ------
    ValueError
        When there is no item, fewer than two choices, or an answer that is none of the choices.

    Notes
    -----
    The score is set against guesses that hit with probability 1 / number of choices, independently: the chance of at
    least k hits is the binomial tail ``scipy.stats.binom.sf(k - 1, n, 1 / m)``, computed here for every k.
    """
    items, choices = list(items), list(choices)
    if not items or len(choices) < 2 or len(set(choices)) < len(choices):
        raise ValueError(f"game '{title}' needs at least one item and two different choices, got "
                         f"{len(items)} items and choices {choices}")
    for k, item in enumerate(items, 1):
        if item.answer not in choices:
            raise ValueError(f"game '{title}': item {k} has the answer {item.answer!r}, expected one of {choices}")
    n, m = len(items), len(choices)
    luck = [1.0 if k == 0 else float(binom.sf(k - 1, n, 1 / m)) for k in range(n + 1)]
    endings = [f"You got {k} of {n}. Guessing gets {number(n / m, 1)} of {n} on average; a guesser gets {k} or more "
               f"with probability {number(p)}." for k, p in enumerate(luck)]
    data = {"items": [{"answer": choices.index(item.answer),
                       "told": f"The answer is: {item.answer}. {item.explanation}"} for item in items],
            "endings": endings, "luck": [repr(p) for p in luck],
            "again": "You have seen these pictures before, so a better score may be memory."}
    listed = "".join(
        f'<li tabindex="-1">{item.figure.html()}<details><summary>Answer</summary><p>{html.escape(told["told"])}</p>'
        "</details></li>" for item, told in zip(items, data["items"], strict=True))
    buttons = "".join(f'<button type="button">{html.escape(choice)}</button>' for choice in choices)
    body = (f'<p class="bt-question">{html.escape(question)}</p><p class="bt-progress" hidden></p>'
            f'<p class="bt-still">Choose {" or ".join(html.escape(c) for c in choices)}, then open the answer.</p>'
            f'<ol class="bt-items">{listed}</ol>'
            f'<div class="bt-choices" role="group" aria-label="{html.escape(question)}" hidden>{buttons}</div>'
            '<p class="bt-text" aria-live="polite"></p>'
            '<button type="button" class="bt-next" hidden>Next picture</button>')
    return Output(page("game", title, body, data), f"{title}. {question} {n} pictures to judge in the page.")


# ---------------------------------------------------------------------- a live kernel
def live(function: Callable, /, *, button: bool = False, **controls):
    """Let the reader call a function again with other values, in a running kernel.

    Parameters
    ----------
    function : callable
        Called with one value per control; what it returns or displays is shown below the controls.
    button : bool
        Compute on a button's press, not on every move: for functions that take more than a moment.
    **controls : list or ipywidgets abbreviation
        A list becomes a slider over its values; anything else is passed on to ``ipywidgets.interactive``.

    Returns
    -------
    ipywidgets.interactive or Output
        The widget; its ``children`` hold the controls, ``result`` the last value. In the built book (environment
        variable ``BIAS_TUTORIAL_BOOK`` set to 1) one sentence instead, as there is no kernel.
    """
    if os.environ.get("BIAS_TUTORIAL_BOOK") == "1":
        return Output(f'<p class="bt-live">{html.escape(NO_KERNEL)}</p>', NO_KERNEL)
    import ipywidgets

    sliders = {}
    for name, control in controls.items():
        if isinstance(control, list):
            control = ipywidgets.SelectionSlider(options=control, value=control[len(control) // 2], description=name,
                                                 continuous_update=False)
        sliders[name] = control
    widget = ipywidgets.interactive(function, {"manual": button, "manual_name": "Compute again"}, **sliders)
    return widget
