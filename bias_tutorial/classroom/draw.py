"""The numbers of an exercise sheet, redrawn for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any


class Numbers(SimpleNamespace):
    """The numbers of one sheet, by name: ``numbers.p``."""


def draw(seed: int, /, **choices: Iterable[Any]) -> Numbers:
    """Draw one value of each list.

    The value of a name depends on the seed, the name and its list alone, and not on the platform or on other names:
    adding a name leaves the others as they were.

    Parameters
    ----------
    seed : int
        Of the whole sheet; ``make classroom SEED=7`` writes another one into it.
    **choices : iterable
        What may be drawn for each name, at least one value. Nothing in it may depend on another name.

    Returns
    -------
    Numbers
        One attribute for each name.

    Raises
    ------
    ValueError
        When the seed is no whole number, or a list is empty.

    Examples
    --------
    >>> draw(0, p=[0.6, 0.7, 0.8, 0.9], n=range(200, 600, 50)) == draw(0, n=range(200, 600, 50), p=[0.6, 0.7, 0.8, 0.9])
    True
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"the seed must be a whole number, got {seed!r}")
    drawn = {}
    for name, values in choices.items():
        listed = list(values)
        if not listed:
            raise ValueError(f"'{name}' has nothing to draw from: give it a list of at least one value")
        # A hash in place of a generator: no library or version of one can change what a class was given.
        digest = hashlib.sha256(f"{seed}|{name}".encode()).digest()
        drawn[name] = listed[int.from_bytes(digest, "big") % len(listed)]
    return Numbers(**drawn)
