"""Checks of an answer: what passes, what does not, and what is said; and the numbers of a sheet."""

import math

import numpy as np
import pandas as pd
import pytest

from bias_tutorial.classroom import checks, draw


def says(words, check, *args, **named):
    with pytest.raises(checks.NotYet) as caught:
        check(*args, **named)
    for word in [words] if isinstance(words, str) else words:
        assert word in str(caught.value), str(caught.value)


def test_a_number_is_one_and_lies_where_it_may():
    for value in (0.3, 1, -1, np.float32(0.5), np.int64(1)):
        checks.number("gap", value, low=-1, high=1)
    for value in ("a lot", None, True, math.nan, math.inf, [0.3], 1.01, np.bool_(True), 0.3j):
        says("gap should be a number between -1 and 1; it is ", checks.number, "gap", value, low=-1, high=1)
    says("it is 'a lot'.", checks.number, "gap", "a lot")
    says("Take the number out of it", checks.number, "gap", pd.Series([0.2]))
    says("it is", checks.number, "gap", [0.1, [0.2, 0.3]])
    says("not answered yet", checks.number, "gap", ...)
    says("at least 0", checks.number, "n", -3, low=0)
    says("at most 0", checks.number, "n", 3, high=0)
    says("one finite number", checks.number, "n", math.inf)


def test_a_typical_wrong_number_gets_its_own_hint():
    wrong = {0.25: "half of it", -0.5: "the sign"}
    checks.misconception("gap", 0.5, wrong)
    checks.misconception("gap", 0.2531, wrong)
    says(["gap = 0.251:", "half of it"], checks.misconception, "gap", 0.251, wrong)
    says("the sign", checks.misconception, "gap", np.float64(-0.5), wrong)
    says("half of it", checks.misconception, "gap", 0.3, {0.25: "half of it"}, within=0.05)


@pytest.mark.parametrize(("value", "right"), [
    (0.501, 0.5), (np.float32(0.5), 0.5), (3, 3), (" B ", "b"), (np.True_, True), ([0.1, 0.2], (0.1, 0.2)),
    (np.array([0.1, 0.2]), [0.1, 0.2]), (None, None), (("a", 1), ["A", 1]),
    (pd.Series([1.0, 2], index=[5, 6]), [1, 2])])
def test_equal_answers_pass(value, right):
    checks.equals("x", value, right)


@pytest.mark.parametrize(("value", "right"), [
    (0.503, 0.5), ("0.5", 0.5), ("c", "b"), (1, True), ([0.2, 0.1], [0.1, 0.2]), ([0.1], [0.1, 0.2]), (None, 0.0),
    (math.nan, 0.5), ("ab", ["a", "b"]), (True, 1), (0.5, [0.5]), ({0: 1}, [1])])
def test_other_answers_do_not_and_the_right_one_is_not_told(value, right):
    says(["x is not right yet", "Think of the base rate."], checks.equals, "x", value, right,
         hint="Think of the base rate.")
    with pytest.raises(checks.NotYet) as caught:
        checks.equals("x", -7.5, 123.456)
    assert "123" not in str(caught.value)


def test_a_comparison_that_cannot_be_made_is_a_fault_of_the_sheet():
    with pytest.raises(TypeError, match="cannot be compared with a object"):
        checks.equals("x", 1, object())


def test_a_choice():
    hints = {"a": "AUC looks at order inside a group.", "c": "That is the other one."}
    checks.choice("answer", " B", hints=hints)
    says("inside a group", checks.choice, "answer", "A", hints=hints)
    for value in ("e", "", 2, None, "bc"):
        says("answer should be one of 'a', 'b', 'c', 'd'", checks.choice, "answer", value, hints=hints)


def test_a_table():
    made = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    checks.table("t", made, ["b"], rows=2)
    says("should be a table", checks.table, "t", {"a": 1}, ["a"])
    says(["lacks the columns 'c', 'd'", "it has 'a', 'b'"], checks.table, "t", made, ["a", "c", "d"])
    says("should have 3 rows; it has 2", checks.table, "t", made, ["a"], rows=3)


def test_the_same_rows():
    checks.same("rows", np.array([1, 2]), [1, 2])
    checks.same("rows", [2, 1, 1], {1, 2})
    checks.same("rows", pd.Series({"A": 0.5}), {"A": 0.5})
    checks.same("rows", pd.Series(["x", "y"]), ["x", "y"])
    says("rows is not right yet in 1 of 2 entries. Sorted?", checks.same, "rows", [2, 2], [1, 2], "Sorted?")
    says("should have shape (2,); it has (3,)", checks.same, "rows", [1, 2, 3], [1, 2])
    says("rows is not right yet", checks.same, "rows", "12", {"1", "2"})
    says("rows is not right yet", checks.same, "rows", 5, {1, 2})
    says("one entry for each of A, B", checks.same, "rows", {"A": 1}, {"A": 1, "B": 2})
    says("not right yet for B", checks.same, "rows", {"A": 1, "B": 3}, {"A": 1, "B": 2})


def test_a_function():
    cases = [((0.8,), 4.0), ((0.5,), 1.0)]
    checks.function("odds", lambda p: p / (1 - p), cases)
    checks.function("odds", lambda p: 7, [((0.8,), ...)])
    says("should be a function", checks.function, "odds", 4.0, cases)
    says("odds(0.8) returns nothing: is there a return?", checks.function, "odds", lambda p: None, cases)
    says(["odds(0.8) = 0.25:", "turned round"], checks.function, "odds", lambda p: (1 - p) / p, cases,
         hints={0.25: "The ratio is turned round."})
    says(["odds(0.5) is not right yet", "ratio"], checks.function, "odds", lambda p: 4.0, cases, hint="A ratio.")
    says("odds(0.8) stops with ZeroDivisionError", checks.function, "odds", lambda p: 1 / 0, cases)
    says("odds(0.8) should be one finite number", checks.function, "odds", lambda p: "x", [((0.8,), ...)])


def test_numbers_follow_the_seed_and_their_own_name_alone():
    lists = {"p": [0.6, 0.7, 0.8, 0.9], "n": range(200, 600, 50)}
    one = draw(0, **lists)
    assert one == draw(0, n=lists["n"], p=lists["p"]) and one.p == draw(0, p=lists["p"], other=[1, 2]).p
    assert {draw(seed, **lists).p for seed in range(40)} == set(lists["p"])
    assert {draw(seed, **lists).n for seed in range(80)} == set(lists["n"])
    assert len({(draw(s, **lists).p, draw(s, **lists).n) for s in range(200)}) == 32, "names are drawn separately"
    # What a class was given last year must come again, on every platform and version.
    assert draw(0, a=range(1000), b=range(1000)) == draw(0, a=[THEN["a"]], b=[THEN["b"]])


THEN = {"a": 452, "b": 982}


@pytest.mark.parametrize(("seed", "lists", "words"), [
    (0.5, {"p": [1]}, "whole number"), (True, {"p": [1]}, "whole number"), ("7", {}, "whole number"),
    (0, {"p": []}, "'p' has nothing to draw from")])
def test_what_cannot_be_drawn_is_said(seed, lists, words):
    with pytest.raises(ValueError, match=words):
        draw(seed, **lists)
