"""Values between two processes that do not trust each other: data only, no code, nothing is unpickled.

A student's code runs in one process, the tests of it in another. What a test asks for comes over as JSON: numbers,
texts, containers, arrays, tables, tensors and the frozen data classes of this package. Everything else, functions above
all, stays where it is and is reached by a number (:class:`Remote`).
"""

from __future__ import annotations

import base64
import dataclasses
import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

DEEPEST, LARGEST = 40, 64 * 2**20  # containers inside containers; bytes of one array
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_KINDS = "biufcSUMm"  # arrays of these types of numpy are plain memory


class Strange(ValueError):
    """A value that cannot come over."""


class Remote:
    """Something that stays in the student's process: calls, attributes and items are asked for there.

    Parameters
    ----------
    ask : callable
        Sends a request and returns the value that came back.
    number : int
        Of the thing, over there.
    said : str
        How it prints.
    """

    def __init__(self, ask: Callable[[dict], Any], number: int, said: str):
        self.__dict__.update(_ask=ask, _number=number, _said=said)

    def __call__(self, *arguments, **named):
        """What the call returns over there."""
        return self._ask({"do": "call", "of": self._number, "arguments": list(arguments), "named": named})

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask({"do": "attribute", "of": self._number, "name": name})

    def __getitem__(self, item):
        return self._ask({"do": "item", "of": self._number, "item": item})

    def __len__(self) -> int:
        return int(self._ask({"do": "length", "of": self._number}))

    def __iter__(self):
        raise TypeError(f"{self._said} cannot be gone through by a test")

    def __repr__(self) -> str:
        return self._said


def pack(value: Any, keep: Callable[[Any], int], depth: int = 0) -> Any:
    """A value as JSON can hold it.

    Parameters
    ----------
    value
        Anything.
    keep : callable
        Called with what cannot come over; returns its number.
    depth : int
        Used inside.
    """
    if depth > DEEPEST:
        raise Strange(f"it holds more than {DEEPEST} containers inside each other")

    def inner(part):
        return pack(part, keep, depth + 1)

    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [inner(value.real), inner(value.imag)]}
    if value is ...:
        return {"ellipsis": 0}
    if isinstance(value, Remote):
        return {"remote": value._number}
    if kind in (list, tuple, set, frozenset):
        return {kind.__name__: [inner(part) for part in value]}
    if kind in _VIEWS:
        return {"list": [inner(part) for part in value]}
    if kind is dict:
        return {"dict": [[inner(key), inner(part)] for key, part in value.items()]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return {"scalar": _array(np.asarray(value))}
    if kind is np.ndarray and value.dtype.kind in _KINDS:
        return {"array": _array(value)}
    if kind is np.ndarray and value.dtype.kind == "O":
        return {"objects": [list(value.shape), [inner(part) for part in value.ravel()]]}
    if kind is pd.DataFrame:
        columns = [[inner(_plain(name)), inner(_column(value.iloc[:, k]))] for k, name in enumerate(value.columns)]
        return {"table": [columns, inner(_column(value.index))]}
    if kind is pd.Series:
        return {"series": [inner(_column(value)), inner(_column(value.index)), inner(_plain(value.name))]}
    if isinstance(value, pd.Index):
        return inner(_column(value))
    if kind.__module__ == "torch" and kind.__name__ in ("Tensor", "Parameter"):
        return {"tensor": inner(value.detach().cpu().numpy())}
    if isinstance(value, SimpleNamespace):
        return {"names": inner(dict(vars(value)))}
    if _is_record(kind):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return {"record": [kind.__module__, kind.__qualname__, inner(fields)]}
    return {"thing": [keep(value), _said(value)]}


def unpack(packed: Any, remote: Callable[[int, str], Any], depth: int = 0) -> Any:
    """The value again. Never runs code of whoever packed it.

    Parameters
    ----------
    packed
        From :func:`pack`, through JSON; possibly forged.
    remote : callable
        From number and text to what stands for a thing over there.
    depth : int
        Used inside.

    Raises
    ------
    Strange
        For anything that :func:`pack` does not write.
    """
    if packed is None or isinstance(packed, bool | str | float):
        return packed
    if not isinstance(packed, dict) or len(packed) != 1 or depth > 2 * DEEPEST:
        raise Strange("what came from the submission is not a value")
    ((kind, held),) = packed.items()

    def inner(part):
        return unpack(part, remote, depth + 1)

    try:
        return _UNPACK[kind](held, inner, remote)
    except Strange:
        raise
    except Exception as error:
        raise Strange(f"what came from the submission is not a value ({kind}: {type(error).__name__})") from None


def _integer(held, inner, remote):
    if not isinstance(held, str) or len(held) > 3000:  # a number so long that printing it would stop the check
        raise Strange("the number has thousands of digits")
    return int(held, 16)


def _record(held, inner, remote):
    module, name, fields = held
    if not str(module).startswith("bias_tutorial.") or module not in sys.modules:
        raise Strange(f"a {name} of {module} cannot come over")
    kind = getattr(sys.modules[module], name)
    if not _is_record(kind):
        raise Strange(f"a {name} cannot come over")
    return kind(**inner(fields))


def _frame(held, inner, remote):
    columns, index = held
    names = [inner(name) for name, _ in columns]
    made = pd.DataFrame(dict(enumerate(inner(column) for _, column in columns)), index=inner(index))
    made.columns = names
    return made


_UNPACK: dict[str, Callable] = {
    "int": _integer,
    "float": lambda held, inner, remote: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[held],
    "complex": lambda held, inner, remote: complex(*map(inner, held)),
    "ellipsis": lambda held, inner, remote: ...,
    "list": lambda held, inner, remote: [inner(part) for part in held],
    "tuple": lambda held, inner, remote: tuple(inner(part) for part in held),
    "set": lambda held, inner, remote: {inner(part) for part in held},
    "frozenset": lambda held, inner, remote: frozenset(inner(part) for part in held),
    "dict": lambda held, inner, remote: {inner(key): inner(part) for key, part in held},
    "range": lambda held, inner, remote: range(*held),
    "scalar": lambda held, inner, remote: _memory(held)[()],
    "array": lambda held, inner, remote: _memory(held),
    "objects": lambda held, inner, remote: _objects(held[0], [inner(part) for part in held[1]]),
    "table": _frame,
    "series": lambda held, inner, remote: pd.Series(inner(held[0]), index=inner(held[1]), name=inner(held[2])),
    "tensor": lambda held, inner, remote: __import__("torch").from_numpy(inner(held).copy()),
    "names": lambda held, inner, remote: SimpleNamespace(**inner(held)),
    "record": _record,
    "thing": lambda held, inner, remote: remote(int(held[0]), str(held[1])[:200]),
    "remote": lambda held, inner, remote: remote(int(held), ""),
}


def _array(value: np.ndarray) -> list:
    if value.nbytes > LARGEST:
        raise Strange(f"the array has {value.nbytes / 2**20:.0f} MiB, more than {LARGEST // 2**20}")
    return [value.dtype.str, list(value.shape), base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()]


def _memory(held: list) -> np.ndarray:
    dtype = np.dtype(held[0])
    if dtype.kind not in _KINDS:
        raise Strange(f"an array of {dtype} cannot come over")
    return np.frombuffer(base64.b64decode(held[2]), dtype).reshape([int(side) for side in held[1]]).copy()


def _objects(shape: list, parts: list) -> np.ndarray:
    made = np.empty(len(parts), dtype=object)
    for k, part in enumerate(parts):
        made[k] = part
    return made.reshape([int(side) for side in shape])


def _column(column: pd.Series | pd.Index) -> np.ndarray:
    """A column as an array; texts, categories and mixed values become single objects."""
    if isinstance(column, pd.MultiIndex):
        return _objects([len(column)], list(column))
    values = column.to_numpy()
    return values if values.dtype.kind in _KINDS else _objects([len(values)], [_plain(part) for part in values])


def _plain(value: Any) -> Any:
    return None if value is pd.NA or value is pd.NaT else value


def _is_record(kind: Any) -> bool:
    return (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
            and kind.__module__.startswith("bias_tutorial."))


def _said(value: Any) -> str:
    name = getattr(value, "__name__", None)
    kind = type(value).__name__
    return f"<{kind} {name}>" if isinstance(name, str) else f"<{kind}>"
