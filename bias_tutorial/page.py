"""What explorers are made of: an output for a notebook, its page with style and script, sliders, printed numbers."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from .plotting import number

MOST_FRAMES = 120
MOST_BYTES = 1_500_000
"""What one explorer may weigh. A frame with a line figure is about 10 kB, with a picture of 112 x 96 about 12 kB more;
equal pictures are stored once."""


class Output:
    """Something a notebook shows as HTML, with a plain text for where HTML is not shown."""

    def __init__(self, page: str, text: str):
        self.text = text
        self._page = page

    def html(self) -> str:
        """Return the HTML, complete in itself."""
        return self._page

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self._page, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


def check_controls(title: str, controls: Mapping[str, list], start: dict[str, Any]) -> dict[str, Any]:
    """Return the start, complete and in the order of the controls; a ValueError names the control that does not fit."""
    frames = 1
    for name, values in controls.items():
        frames *= len(values)
        if len(values) < 2 or len(set(values)) < len(values):
            raise ValueError(f"explorer '{title}': control '{name}' needs at least two different values, got {values}")
        if start.setdefault(name, values[len(values) // 2]) not in values:
            raise ValueError(f"explorer '{title}': start {name}={start[name]!r} is none of {values}")
    if not controls or frames > MOST_FRAMES:
        frames = frames if controls else 0
        raise ValueError(f"explorer '{title}' would have {frames} frames, expected 2 to {MOST_FRAMES}")
    unknown = set(start) - set(controls)
    if unknown:
        raise ValueError(f"explorer '{title}': start names '{sorted(unknown)[0]}', the controls are {list(controls)}")
    return {name: start[name] for name in controls}


def setting(name: str, value) -> str:
    """Say where a control stands, in words."""
    return f"{name}: {value}" if isinstance(value, str) else f"{name} = {value:g}".replace("-", "−")


def printed(value: float, digits: int) -> str:
    """Write Python's own int whole and its float with fixed digits."""
    return number(value, digits) if isinstance(value, float) else f"{value:,}".replace("-", "−")


def slider(label: str, settings: Sequence[str], k: int) -> str:
    """Return the HTML of a slider over the settings, standing at the k-th."""
    at = html.escape(settings[k])
    return (f'<div class="bt-control"><label><span>{html.escape(label)}</span>'
            f'<input type="range" min="0" max="{len(settings) - 1}" step="1" value="{k}" aria-valuetext="{at}"></label>'
            f'<span class="bt-setting" aria-hidden="true">{at}</span></div>')


def page(kind: str, title: str, body: str, data: Mapping) -> str:
    """Wrap a body with its data, style and script. Nothing in the data can end the script element early.

    Raises
    ------
    ValueError
        When the page weighs more than ``MOST_BYTES``.
    """
    assets = files(__package__) / "assets"
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    # The attribute keeps JupyterLab's own shortcuts off the sliders' arrow keys.
    whole = (f'<div class="bt-explore" data-kind="{kind}" role="group" aria-label="{html.escape(title)}" '
             f'data-lm-suppress-shortcuts="true"><style>{(assets / "explore.css").read_text("utf-8")}</style>'
             f'<p class="bt-title">{html.escape(title)}</p>{body}'
             f'<script type="application/json">{text}</script>'
             f'<script>{(assets / "explore.js").read_text("utf-8")}</script></div>')
    if len(whole.encode()) > MOST_BYTES:
        raise ValueError(f"{kind} '{title}' weighs {len(whole.encode()):,} bytes, at most {MOST_BYTES:,} fit a page; "
                         "use fewer values or pictures, or smaller ones")
    return whole
