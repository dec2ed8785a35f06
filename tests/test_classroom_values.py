"""Values between two processes: the same on the other side, or refused; never code."""

import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from bias_tutorial.classroom import draw, values
from bias_tutorial.scenario import preset


def over(value, things=None):
    kept = {} if things is None else things

    def keep(thing):
        kept[len(kept)] = thing
        return len(kept) - 1

    return values.unpack(json.loads(json.dumps(values.pack(value, keep))), lambda number, said: (number, said))


@pytest.mark.parametrize("value", [
    None, True, 5, -(10**40), 0.25, "ü", "", 1 + 2j, ..., [1, "a", None], (), (1, (2,)), {1, 2}, frozenset("ab"),
    {"a": [1], 2: {"b": 0.5}}, range(3, 9, 2), np.float32(0.1), np.int64(7), np.bool_(True), preset("both", 0.8)])
def test_a_plain_value_comes_over(value):
    found = over(value)
    assert found == value and type(found) is type(value)


def test_the_keys_of_a_dictionary_come_over_as_a_list():
    assert over({"a": 1}.keys()) == ["a"] and over({"a": 1}.items()) == [("a", 1)]


def test_numbers_that_are_none_come_over():
    assert math.isnan(over(math.nan)) and over([math.inf, -math.inf]) == [math.inf, -math.inf]


@pytest.mark.parametrize("value", [
    np.arange(6).reshape(2, 3), np.array([0.5, np.nan], np.float32), np.array(["a", "bc"]), np.zeros((0, 3), bool),
    np.array(["a", None, 2], dtype=object), np.arange(6).reshape(2, 3).T])
def test_an_array_comes_over(value):
    found = over(value)
    np.testing.assert_array_equal(found, value)
    assert found.dtype == value.dtype and found.flags.writeable


def test_tables_series_tensors_and_numbers_come_over():
    table = pd.DataFrame({"n": [1, 2], "share": [0.5, np.nan], "group": ["A", "B"], "sick": [True, False]},
                         index=["x", "y"])
    pd.testing.assert_frame_equal(over(table), table, check_dtype=False)
    assert over(table).dtypes["n"] == table.dtypes["n"]
    pd.testing.assert_series_equal(over(table["share"]), table["share"])
    grouped = pd.DataFrame({"a": [1, 1, 2], "b": [3, 4, 4], "c": [1.0, 2, 3]}).groupby(["a", "b"]).mean()
    assert list(over(grouped)["c"]) == [1, 2, 3]
    assert torch.equal(over(torch.arange(3.0, requires_grad=True)), torch.arange(3.0))
    assert vars(over(draw(0, p=[0.7], n=[5]))) == {"p": 0.7, "n": 5}


def test_what_cannot_come_over_stays_and_is_named():
    kept = {}
    assert over(len, kept) == (0, "<builtin_function_or_method len>") and kept == {0: len}
    assert over(object())[1] == "<object>"

    class Sly(float):
        """Says that it is equal to everything."""

        def __eq__(self, other):
            return True

    assert over(Sly(3))[1] == "<Sly>", "a subclass is a thing, not a number"


@pytest.mark.parametrize("forged", [
    7, [1], {}, {"int": 5}, {"int": "0x" + "f" * 4000}, {"pickle": "x"}, {"array": ["O", [1], ""]}, {"float": "1e5"},
    {"array": ["<f8", [5], "AAAA"]}, {"record": ["os", "environ", {"dict": []}]}, {"set": [{"list": []}]},
    {"record": ["bias_tutorial.scenario", "preset", {"dict": []}]}, {"list": 5}, {"int": "0x1", "list": []},
    {"record": ["bias_tutorial.scenario", "Scenario", {"dict": [["name", {"int": "0x1"}], ["x", None]]}]},
    {"array": ["|V8", [1], "AAAAAAAAAAA="]}])
def test_what_is_forged_is_refused(forged):
    with pytest.raises(values.Strange):
        values.unpack(forged, lambda number, said: number)


def test_what_is_too_deep_or_too_large_is_refused(monkeypatch):
    nested = []
    for _ in range(60):
        nested = [nested]
    with pytest.raises(values.Strange, match="containers inside"):
        over(nested)
    monkeypatch.setattr(values, "LARGEST", 100)
    with pytest.raises(values.Strange, match="MiB"):
        over(np.zeros(100))
    assert pickle.__name__ not in values.__dict__


def test_a_remote_asks_and_names_itself():
    asked = []

    def ask(request):
        asked.append(request)
        return 3

    thing = values.Remote(ask, 4, "<function f>")
    assert (thing(1, k=2), thing.mean, thing["a"], len(thing), repr(thing)) == (3, 3, 3, 3, "<function f>")
    assert [request["do"] for request in asked] == ["call", "attribute", "item", "length"]
    assert asked[0] == {"do": "call", "of": 4, "arguments": [1], "named": {"k": 2}}
    with pytest.raises(TypeError, match="cannot be gone through"):
        list(thing)
