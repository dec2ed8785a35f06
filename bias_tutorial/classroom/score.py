"""Points for the answers of a capstone, by rules that everybody may read; what is asked is in :mod:`.capstone`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..claims import is_number
from .capstone import ATTRIBUTES, ROLES

CHOICES = {"attribute": ATTRIBUTES, "kind": ("shape", "grey"), "direction": ("sick", "healthy"),
           "harmed": ("carriers", "others")}
POINTS = {"attribute": 4, "kind": 2, "direction": 2, "harmed": 2, "association": 2, "gap": 2, "gap_interval": 3,
          "others": 3}
FULL = sum(POINTS.values())
ASSOCIATION_WITHIN = 0.06
GAP_WITHIN = 0.1
WIDEST = 0.25
"""An interval of at most this width that holds the truth has full points; one up to twice as wide has one."""


@dataclass(frozen=True)
class Line:
    """One field of the form: points, and why."""

    field: str
    points: int
    of: int
    says: str


@dataclass(frozen=True)
class Score:
    """All lines of a form; printed as a table."""

    lines: tuple[Line, ...]

    @property
    def points(self) -> int:
        """Points in all, of ``FULL``."""
        return sum(line.points for line in self.lines)

    def __str__(self) -> str:
        rows = [f"{line.field:<13} {line.points} of {line.of}  {line.says}" for line in self.lines]
        return "\n".join([*rows, f"{'in all':<12} {self.points:>2} of {FULL}"])


def score(answers: str | Path, truth: str | Path) -> Score:
    """Compare a filled form with the sealed truth.

    ``attribute`` has 4 points. ``kind``, ``direction``, ``harmed`` (2 each), ``association`` (2, within .06),
    ``gap`` (2, within .1 of the gap between twins) and ``gap_interval`` (3 when it holds the gap between twins and is
    at most .25 wide, 1 when it is at most twice as wide) count only with the right attribute, since otherwise they
    speak of another one. ``others`` has 1 for each of the three. An empty field has none.

    Parameters
    ----------
    answers : path
        The form, ``answers.yml``.
    truth : path
        ``truth.json``, as :func:`bias_tutorial.classroom.capstone.make` wrote it.

    Raises
    ------
    ValueError
        For a form that cannot be read, a field that is unknown or holds something that cannot be (the message names
        file and field), or a truth that is not the one whose hash the form holds.
    OSError
        When a file cannot be read.
    """
    form, (known, seal) = read_form(answers), read_truth(truth)
    if form["cohort"] != seal:
        raise ValueError(f"{Path(answers).name}: 'cohort' is {form['cohort']!r}, but {Path(truth).name} has the hash "
                         f"'{seal}': the form belongs to another cohort, or one of the two was changed")
    return Score(tuple(_judge(field, form[field], known, form) for field in POINTS))


def read_truth(path: str | Path) -> tuple[dict[str, Any], str]:
    """Read a truth file and its hash; a ValueError says when it is none."""
    raw = Path(path).read_bytes()
    try:
        truth = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{Path(path).name} is not JSON: {error}") from None
    needed = {"attribute", "kind", "direction", "harmed", "association", "gap", "roles"}
    missing = needed - set(truth) if isinstance(truth, dict) else needed
    if missing:
        raise ValueError(f"{Path(path).name} holds no '{sorted(missing)[0]}': it is not the truth of a capstone")
    return truth, hashlib.sha256(raw).hexdigest()


def read_form(path: str | Path) -> dict[str, Any]:
    """Read a form: every field, None where it is empty; a ValueError names the field that cannot be."""
    name = Path(path).name
    try:
        form = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(form, Mapping):
        raise ValueError(f"{name} holds no fields; start from the form answers.yml that came with the cohort")
    unknown = [field for field in form if field not in ("cohort", *POINTS)]
    if unknown:
        raise ValueError(f"{name}: unknown field '{unknown[0]}', expected {', '.join(('cohort', *POINTS))}")
    if not isinstance(form.get("cohort"), str):
        raise ValueError(f"{name}: 'cohort' must be the line that came with the form, got {form.get('cohort')!r}")
    form = {field: form.get(field) for field in ("cohort", *POINTS)}
    for field, choices in CHOICES.items():
        if form[field] is not None and form[field] not in choices:
            raise ValueError(f"{name}: '{field}' is {form[field]!r}, expected one of {', '.join(choices)}, or nothing")
    for field in ("association", "gap"):
        if form[field] is not None:
            _number(name, field, form[field])
    _check_interval(name, form["gap_interval"])
    _check_others(name, form["others"])
    return form


def _number(name: str, field: str, value: Any) -> None:
    if not (is_number(value) and -1 <= value <= 1):
        raise ValueError(f"{name}: '{field}' must be a number from -1 to 1, such as 0.12, got {value!r}")


def _check_interval(name: str, interval: Any) -> None:
    if interval is None:
        return
    if not isinstance(interval, list) or len(interval) != 2:
        raise ValueError(f"{name}: 'gap_interval' must be two numbers, [low, high], got {interval!r}")
    for end in interval:
        _number(name, "gap_interval", end)
    if interval[0] > interval[1]:
        raise ValueError(f"{name}: 'gap_interval' must be [low, high], got {interval!r}")


def _check_others(name: str, others: Any) -> None:
    if others is None:
        return
    if not isinstance(others, Mapping):
        raise ValueError(f"{name}: 'others' must have a line for each attribute, got {others!r}")
    for attribute, role in others.items():
        if attribute not in ATTRIBUTES:
            raise ValueError(f"{name}: 'others' names '{attribute}', expected {', '.join(ATTRIBUTES)}")
        if role is not None and role not in ROLES[1:]:
            raise ValueError(f"{name}: 'others: {attribute}' is {role!r}, expected one of {', '.join(ROLES[1:])}, "
                             "or nothing")


# ---------------------------------------------------------------------- the rules
def _judge(field: str, given: Any, truth: Mapping[str, Any], form: Mapping[str, Any]) -> Line:
    if field == "others":
        return _others(given, truth)
    if given is None:
        return Line(field, 0, POINTS[field], "left empty")
    if field != "attribute" and form["attribute"] != truth["attribute"]:
        return Line(field, 0, POINTS[field], "does not count, since the attribute is not the right one")
    full, says = _RULES[field](given, truth)
    points = full if field == "gap_interval" else POINTS[field] * full
    return Line(field, int(points), POINTS[field], says)


def _attribute(given, truth):
    if given == truth["attribute"]:
        return True, "right: it goes with the disease, and it shows"
    reason = {"visible": "shows in the images, but is as frequent among the healthy as among the sick",
              "related": "goes with the disease, but nothing of it shows in the images, so no reader can use it",
              "neither": "neither goes with the disease nor shows in the images"}[truth["roles"][given]]
    return False, f"'{given}' {reason}; it is '{truth['attribute']}'"


def _kind(given, truth):
    return given == truth["kind"], "right" if given == truth["kind"] else \
        f"it is '{truth['kind']}': map the difference of carriers and others within a class over the image"


def _direction(given, truth):
    return given == truth["direction"], "right" if given == truth["direction"] else \
        f"it is more frequent among the {truth['direction']}: compare within each class, not within each group"


def _harmed(given, truth):
    return given == truth["harmed"], "right" if given == truth["harmed"] else \
        f"the reader misses more of the {truth['harmed']}: look at the sick only, and at who is called healthy"


def _association(given, truth):
    right = abs(given - truth["association"]) <= ASSOCIATION_WITHIN
    return right, f"design: {truth['association']:+.2f}" + \
        ("" if right else "; take shares within the sick and within the healthy, training rows only")


def _gap(given, truth):
    right = abs(given - truth["gap"]) <= GAP_WITHIN
    return right, f"between twins: {truth['gap']:+.3f}" + \
        ("" if right else "; take the sick of the test rows, carriers less others, at a threshold of one half")


def _gap_interval(given, truth):
    low, high = given
    if not low <= truth["gap"] <= high:
        return 0, f"does not hold the gap between twins, {truth['gap']:+.3f}"
    width = high - low
    if width <= WIDEST:
        return POINTS["gap_interval"], "holds the gap between twins, and is short enough to say something"
    if width <= 2 * WIDEST:
        return 1, f"holds the gap between twins, but {width:.2f} is wide: the test rows allow a shorter one"
    return 0, f"{width:.2f} is so wide that nearly any gap lies in it"


def _others(given, truth):
    wanted = {name: role for name, role in truth["roles"].items() if role != "shortcut"}
    found = {name: (given or {}).get(name) for name in wanted}
    right = sum(found[name] == role for name, role in wanted.items())
    wrong = [f"{name} is '{role}'" for name, role in wanted.items() if found[name] not in (role, None)]
    if all(role is None for role in found.values()):
        return Line("others", 0, POINTS["others"], "left empty")
    return Line("others", right, POINTS["others"], f"{right} right" + (": but " + ", ".join(wrong) if wrong else ""))


_RULES = {"attribute": _attribute, "kind": _kind, "direction": _direction, "harmed": _harmed,
          "association": _association, "gap": _gap, "gap_interval": _gap_interval}
