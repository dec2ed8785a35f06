"""Checks of an answer, each with a hint: what an exercise sheet says when something is not right yet.

Every check passes silently, or raises :class:`NotYet` with a short text that a student can work with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd


class NotYet(AssertionError):
    """An answer is not right yet; the text says what to think about."""


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Ask for one finite number in a plausible range; True and False are none.

    Parameters
    ----------
    name : str
        Of the answer, as the student wrote it.
    value
        The answer.
    low, high : float
        The range, ends included. Wide enough to give nothing away.
    """
    if not _is_number(value) or not low <= value <= high:
        # A column or an array with one entry looks like a number when it is printed.
        single = isinstance(value, np.ndarray | pd.Series) and value.ndim and value.size == 1
        take = "Take the number out of it, for example with .item()." if single else ""
        raise NotYet(_sentence(f"{name} should be {_range(low, high)}; {_is(value)}.", take))


def misconception(name: str, value: Any, wrong: Mapping[float, str], within: float = 0.002) -> None:
    """Meet typical wrong numbers with what probably led to them.

    Parameters
    ----------
    name, value
        As for :func:`number`, which belongs before this.
    wrong : dict of float to str
        Typical wrong value, and the hint. The first that is near enough counts. A wrong value that happens to lie next
        to the right one, at some seed, must be left out by the sheet.
    within : float
        How near is near.
    """
    for typical, hint in wrong.items():
        if _near(value, typical, within):
            raise NotYet(f"{name} = {_shown(value)}: {hint}")


def equals(name: str, value: Any, right: Any, within: float = 0.002, hint: str = "") -> None:
    """Compare with the right answer: a number, a text, a truth value, or a sequence of these in order.

    Parameters
    ----------
    name, value
        As for :func:`number`.
    right
        The right answer. The message never holds it. Texts are compared without capitals and outer spaces.
    within : float
        Largest difference of a number.
    hint : str
        What to think about.
    """
    if not _equal(value, right, within):
        raise NotYet(_sentence(f"{name} is not right yet; {_is(value)}.", hint))


def choice(name: str, answer: Any, options: Iterable[str] = "abcd", hints: Mapping[str, str] | None = None) -> None:
    """Ask for one letter, and answer a wrong one with its hint; right answers are those without a hint.

    Parameters
    ----------
    name, answer
        As for :func:`number`. Capitals and outer spaces do not matter.
    options : iterable of str
        What may be answered.
    hints : dict of str to str, optional
        For each wrong option what speaks against it.
    """
    options = [str(option) for option in options]
    given = answer.strip().lower() if isinstance(answer, str) else answer
    if not isinstance(given, str) or given not in options:
        raise NotYet(f"{name} should be one of {', '.join(map(repr, options))}; {_is(answer)}.")
    if given in (hints or {}):
        raise NotYet(f"{name} = {given!r}: {hints[given]}")


def table(name: str, value: Any, columns: Iterable[str], rows: int | None = None) -> None:
    """Ask for a pandas table that has these columns, in any order and among others, and so many rows."""
    if not isinstance(value, pd.DataFrame):
        raise NotYet(f"{name} should be a table (a pandas DataFrame); {_is(value)}.")
    missing = [column for column in columns if column not in value.columns]
    if missing:
        raise NotYet(f"{name} lacks the column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}; it has "
                     f"{', '.join(map(repr, value.columns[:12])) or 'none'}.")
    if rows is not None and len(value) != rows:
        raise NotYet(f"{name} should have {rows} rows; it has {len(value)}.")


def same(name: str, value: Any, right: Any, hint: str = "", within: float = 1e-6) -> None:
    """Compare arrays, lists, series or tables entry by entry in order (an index does not count), sets without order.

    Parameters
    ----------
    name, value, hint, within
        As for :func:`equals`.
    right : array-like, set or mapping
        The right answer. Of a mapping the keys must be the same and each value equal.
    """
    if isinstance(right, Mapping):
        given = value.to_dict() if isinstance(value, pd.Series) else value
        if not isinstance(given, Mapping) or set(given) != set(right):
            raise NotYet(_sentence(f"{name} should have one entry for each of {', '.join(map(str, right))}.", hint))
        off = [str(key) for key in right if not _equal(given[key], right[key], within)]
        if off:
            raise NotYet(_sentence(f"{name} is not right yet for {', '.join(off)}.", hint))
        return
    if isinstance(right, set | frozenset):
        try:
            agrees = not isinstance(value, str) and {_plain(entry) for entry in value} == {_plain(r) for r in right}
        except TypeError:
            agrees = False
        if not agrees:
            raise NotYet(_sentence(f"{name} is not right yet; {_is(value)}.", hint))
        return
    try:
        given, wanted = np.asarray(value), np.asarray(right)
    except Exception:
        raise NotYet(_sentence(f"{name} should be a plain list or array; {_is(value)}.", hint)) from None
    if given.shape != wanted.shape:
        raise NotYet(_sentence(f"{name} should have shape {wanted.shape}; it has {given.shape}.", hint))
    off = [k for k, (one, other) in enumerate(zip(given.ravel(), wanted.ravel(), strict=True))
           if not _equal(_plain(one), _plain(other), within)]
    if off:
        raise NotYet(_sentence(f"{name} is not right yet in {len(off)} of {wanted.size} entries.", hint))


def function(name: str, f: Any, cases: Sequence[tuple[tuple, Any]], within: float = 1e-6,
             hints: Mapping[float, str] | None = None, hint: str = "") -> None:
    """Call a function and look at what it returns.

    Parameters
    ----------
    name : str
        Of the function.
    f
        The answer.
    cases : sequence of (tuple, value)
        Arguments, and what should come back (compared as in :func:`equals`). ``...`` in place of the value asks for
        a finite number only, so that a visible check gives nothing away.
    within : float
        Largest difference.
    hints : dict of float to str, optional
        What typical wrong functions return for the *first* case, and the hint.
    hint : str
        For every other wrong value.
    """
    if not callable(f):
        raise NotYet(f"{name} should be a function; {_is(f)}.")
    for k, (arguments, right) in enumerate(cases):
        called = f"{name}({', '.join(_shown(argument) for argument in arguments)})"
        try:
            found = f(*arguments)
        except Exception as error:
            raise NotYet(_sentence(f"{called} stops with {type(error).__name__}: {error}.", hint)) from None
        if found is None:
            raise NotYet(f"{called} returns nothing: is there a return?")
        if k == 0:
            misconception(called, found, hints or {}, within)
        if right is ...:
            number(called, found)
        elif not _equal(found, right, within):
            raise NotYet(_sentence(f"{called} is not right yet; {_is(found)}.", hint))


# ---------------------------------------------------------------------- what a value is, and how it is said
def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_) and math.isfinite(value)


def _near(value: Any, other: float, within: float) -> bool:
    # The last term forgives a difference that is only in the last bits of a decimal.
    return _is_number(value) and abs(float(value) - float(other)) <= within + 1e-12 * max(1.0, abs(float(other)))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _equal(value: Any, right: Any, within: float) -> bool:
    value, right = _plain(value), _plain(right)
    if isinstance(right, str):
        return isinstance(value, str) and value.strip().casefold() == right.strip().casefold()
    if isinstance(right, bool):
        return isinstance(value, bool) and value == right
    if right is None:
        return value is None
    if isinstance(right, Integral | Real):
        if isinstance(right, float) and math.isnan(right):
            return isinstance(value, float) and math.isnan(value)
        return _near(value, right, within)
    if isinstance(right, Sequence | np.ndarray | pd.Series):
        if isinstance(value, str | Mapping) or not hasattr(value, "__len__") or len(value) != len(right):
            return False
        return all(_equal(one, other, within) for one, other in zip(value, right, strict=True))
    raise TypeError(f"an answer cannot be compared with a {type(right).__name__}; give a number, text or sequence")


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "one finite number"
    if math.isinf(high):
        return f"a number of at least {low:g}"
    return f"a number of at most {high:g}" if math.isinf(low) else f"a number between {low:g} and {high:g}"


def _is(value: Any) -> str:
    return "it is not answered yet" if value is ... else f"it is {_shown(value)}"


def _shown(value: Any) -> str:
    if _is_number(value):
        return f"{value:.6g}" if isinstance(_plain(value), float) else str(value)
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sentence(said: str, hint: str) -> str:
    return f"{said} {hint}".strip()
