"""Sizes of a chapter: the book's, or small ones on a machine with little free memory, such as Binder's."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from . import environment

ENOUGH = 3 * environment.GIB
"""Free memory, in bytes, from which on a chapter runs with the sizes of the book."""
SMALL = Path(__file__).parent / "stored" / "small_parameters.yml"


def small_sizes(chapter: str) -> dict[str, int]:
    """Return the small sizes of a chapter, by name.

    Parameters
    ----------
    chapter : str
        Its two digits, or its whole name: '01' or '01_simulate_bias'.

    Raises
    ------
    ValueError
        When there are none for this chapter.
    """
    import yaml

    known = yaml.safe_load(SMALL.read_text(encoding="utf-8"))
    found = [sizes for name, sizes in known.items() if chapter in (name, name[:2])]
    if not found:
        raise ValueError(f"{SMALL.name} has no chapter {chapter!r}; it has {', '.join(known)}")
    return found[0]


def fit_to_memory(chapter: str, names: MutableMapping[str, Any]) -> None:
    """Make the sizes of a chapter small where memory is short, and print one line that says what was chosen.

    The build of the book always takes the sizes that stand in the chapter.

    Parameters
    ----------
    chapter : str
        Its two digits, such as '01'.
    names : mutable mapping
        The notebook's variables, ``globals()``. Where less than :data:`ENOUGH` memory is free, each size in it that is
        larger than the small one is replaced; a smaller one stays.

    Raises
    ------
    ValueError
        When the chapter has no small sizes, or a size is no variable of the notebook.
    """
    small = small_sizes(chapter)
    if missing := [name for name in small if name not in names]:
        raise ValueError(f"chapter {chapter}: there is no variable {missing[0]!r} yet; run this line below the sizes")
    if os.environ.get("BIAS_TUTORIAL_BOOK") == "1":
        print("Sizes: the book's.")
        return
    free, _ = environment.memory()
    if free is None:
        print("Sizes: the book's. This system does not tell how much memory is free.")
    elif free >= ENOUGH:
        print(f"Sizes: the book's; {free / environment.GIB:.1f} GiB of memory are free.")
    else:
        names.update({name: min(names[name], size) for name, size in small.items()})
        chosen = ", ".join(f"{name} = {names[name]}" for name in small)
        print(f"Sizes: small ones, as only {free / environment.GIB:.1f} GiB of memory are free ({chosen}). "
              "Numbers and pictures will differ from the text.")
