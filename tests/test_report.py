"""What an audit shows of patients: no small count, none that a difference gives back, no rate of a few."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

from bias_tutorial.audit import groups, privacy, procedures, report
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.evaluation import SMALLEST_GROUP
from bias_tutorial.mitigation.resampling import Groups


# ---------------------------------------------------------------------- counts
def test_counts_are_shown_in_tens_and_none_below_ten():
    assert privacy.shown([0, 1, 9, 10, 15, 19, 20, 1_234_567]) == ["<10", "<10", "<10", 10, 10, 10, 20, 1_234_560]
    assert privacy.shown([12, 40], [3, 11]) == ["not shown", 40]  # 12 studies of 3 patients
    assert privacy.numeric([10, "<10", "not shown"]).tolist() == [14.5, 4.5, 4.5]


def test_shares_come_from_what_is_shown_alone():
    """The share is that of the middles of the tens, whatever the exact counts."""
    assert privacy.share([20, "<10", 10], [30, 40, "<10"]) == pytest.approx([0.71, np.nan, np.nan], nan_ok=True)
    for part, whole in ((20, 90), (29, 99)):
        assert privacy.share(privacy.shown([part]), privacy.shown([whole]))[0] == round(24.5 / 94.5, 2)


def possible(shown_table, cell):
    """Least and most that a hidden cell of a two-way table can be, given every shown cell, margin and total."""
    rows, columns = np.array(shown_table, dtype=object).shape
    inner = [(r, c) for r in range(rows - 1) for c in range(columns - 1)]
    limits, values = [], []
    for r in range(rows):
        for c in range(columns):
            part = np.array([(a == r or r == rows - 1) and (b == c or c == columns - 1) for a, b in inner], dtype=float)
            value = shown_table[r][c]
            low, high = (0, 9) if value == "<10" else (value, value + 9)
            limits += [part, -part]
            values += [high, -low]
    goal = np.array([place == cell for place in inner], dtype=float)
    found = [linprog(sign * goal, np.array(limits), values, bounds=(0, None), integrality=1) for sign in (1, -1)]
    return tuple(sign * round(answer.fun) for sign, answer in zip((1, -1), found, strict=True))


def test_no_margin_less_the_shown_cells_gives_a_hidden_count_back():
    """Two-way tables with margins, small cells in all places: at least five values stay possible for each of them."""
    rng, narrowest = np.random.default_rng(0), []
    for _ in range(25):
        cells = rng.integers(0, rng.choice([12, 30, 200]), (2, 3))
        cells[tuple(rng.integers(0, [2, 3]))] = rng.integers(0, 10)
        whole = np.vstack([np.column_stack([cells, cells.sum(1)]), np.append(cells.sum(0), cells.sum())])
        table = [privacy.shown(row) for row in whole]
        for r, c in np.argwhere(cells < 10):
            low, high = possible(table, (r, c))
            assert low <= cells[r, c] <= high
            narrowest.append(high - low + 1)
    assert len(narrowest) > 50 and min(narrowest) >= 5, min(narrowest)


def test_exact_counts_would_give_it_back():
    """The test above can fail: without rounding, or with ten nines in a row, a single value is possible."""
    assert 57 - 50 == 7 and privacy.shown([57, 50, 7]) == [50, 50, "<10"]
    assert possible([[50, "<10", 50], [20, 30, 50], [70, 30, 110]], (0, 1)) == (0, 9)
    assert possible([[*["<10"] * 10, 90], [*["<10"] * 10, 90]], (0, 3)) == (9, 9)


# ---------------------------------------------------------------------- rates
def test_support_counts_patients_and_not_rows():
    labels = np.array([[1, 0], [1, 1], [0, np.nan], [0, 0], [1, 0]], dtype=float)
    patients = np.array(["a", "a", "a", "b", "c"])
    found = privacy.support(labels, [np.arange(5), np.array([0, 1, 2])], patients)
    assert found.shape == (2, 2, 2)
    assert found[:, 0].tolist() == [[2, 1], [2, 1]]  # first finding, with: a, c; without: a, b
    assert found[:, 1].tolist() == [[1, 1], [3, 1]]


def test_rates_of_a_few_patients_are_emptied_and_no_reason_names_a_small_count():
    table = pd.DataFrame({"auc": [0.91234] * 5, "fnr": [0.5] * 5, "reason": ["", "", "", "7 patients", ""]})
    found = privacy.masked(table, ["auc", "fnr"], [100, 10, 9, 20, 50], [100, 60, 60, 20, 9],
                           [200, 70, 69, SMALLEST_GROUP - 1, 59])
    assert found["auc"].tolist() == pytest.approx([0.912, 0.91, np.nan, np.nan, np.nan], nan_ok=True)
    assert found["fnr"].isna().tolist() == [False, False, True, True, True]
    assert found["reason"].tolist() == ["", "", privacy.ONE_SIDED, privacy.TOO_FEW, privacy.ONE_SIDED]
    assert table["auc"].tolist() == [0.91234] * 5, "the table handed in is left alone"


# ---------------------------------------------------------------------- groups and procedures
def cohort(n=240):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient_id": [f"p{k // 2}" for k in range(n)],
                          "split": np.repeat(["train", "validation", "test"], [n // 2, n // 4, n // 4]),
                          "Edema": (rng.random(n) < 0.4).astype(float), "sex": np.where(np.arange(n) % 3 < 2, "F", "M"),
                          "race": np.array(["A", "B", np.nan], dtype=object)[rng.integers(0, 3, n)],
                          "age": rng.uniform(20, 90, n)})
    schema = Schema({"Edema": (0, 1)}, {"sex": ("F", "M"), "race": ("A", "B", "C")})
    return Cohort(rng.normal(size=(n, 8)).astype(np.float32), table, schema)


def test_groups_are_every_value_the_unknown_and_the_crossed_attributes():
    people = groups.demographics(cohort())
    found = groups.sets(people, ("sex", "race"))
    assert list(found) == ["all", "sex", "race", "intersection"]
    assert list(found["race"]) == ["race = A", "race = B", "race = C", "race = not known"]
    assert len(found["intersection"]) == 2 * 4 and len(found["race"]["race = C"]) == 0
    assert sum(map(len, found["race"].values())) == len(people) == sum(map(len, found["intersection"].values()))
    assert list(groups.sets(people, ("sex",))) == ["all", "sex", "race"]


def test_every_procedure_gives_training_rows_and_the_control_their_number():
    data = cohort()
    rows = Groups.of(data, ("sex", "race"))
    names = procedures.ordered(tuple(procedures.WORDS))
    assert names[0] == "plain" and names[-1] == "subset" and len(names) == 7
    sizes = {}
    for name in names:
        sample = procedures.make(name, rows, 3, sizes)
        assert (data.table["split"].to_numpy()[sample.rows] == "train").all()
        assert procedures.rows_by_group(rows, sample).sum() == len(sample)
        sizes[name] = len(sample)
    assert sizes["plain"] == 120 and sizes["subset"] == min(120, *sizes.values())
    plain, weighed = (procedures.rates_by_group(rows, procedures.make(name, rows, 3, sizes))
                      for name in ("plain", "reweighing"))
    assert np.ptp(plain) > 0.05 and np.ptp(weighed) < 1e-6


@pytest.mark.parametrize(("names", "message"), [
    (("smote",), "there is no procedure 'smote', expected some of plain, counts"),
    (("subset",), "'subset' is matched in size to another procedure: name one more"),
])
def test_procedures_that_make_no_sense_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        procedures.ordered(names)


# ---------------------------------------------------------------------- text
def test_cells_are_written_as_a_reader_expects():
    assert [report.said(v) for v in ("<10", np.nan, 12340, 0.123, -0.004)] == ["<10", "–", "12,340", "0.12", "0.00"]
    assert report.said(-0.0126, 3) == "−0.013"
    assert report._value("sex = F, race = A") == "F, A" and report._value("all") == "all"
