"""The read-out table: what is there is read, what is not is at chance, and nobody is on both sides."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score

from bias_tutorial.mitigation.erasure import leace
from bias_tutorial.probing import judged, read_out
from bias_tutorial.probing.readout import class_rates, patient_weights, split_rows

N = 900
SPLIT = np.repeat(["train", "validation", "test"], [450, 150, 300])
FEW = {"draws": 200}


def world(seed=0):
    """Embeddings that hold sex along one column, site in another, age in a third, and a code of two columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 8))
    table = pd.DataFrame({"sex": rng.choice(["F", "M"], N), "site": rng.choice(["A", "B", "C"], N, p=[0.5, 0.3, 0.2]),
                          "age": rng.uniform(20, 90, N)})
    table["code"] = (x[:, 6] * x[:, 7] > 0).astype(int)
    x[:, 0] += 2 * (table["sex"] == "M")
    x[:, 1] += 2 * (table["site"] == "B") - 2 * (table["site"] == "C")
    x[:, 2] = (table["age"] - 55) / 20 + 0.5 * x[:, 2]
    return {"all": x * np.geomspace(100, 0.01, 8) + 5, "none": rng.normal(size=(N, 8))}, table


def value(table, **where):
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture(scope="module")
def table():
    embeddings, labels = world()
    return read_out(embeddings, labels, SPLIT, numbers=["age"], against="none", **FEW)


def test_what_is_there_is_read_by_every_probe_and_what_is_not_is_at_chance(table):
    assert set(table["probe"]) == {"logistic", "linear_svm", "rbf_svm", "ridge", "svr"}
    assert len(table) == 2 * (3 * 3 * 2 + 2 * 2) and not table.drop(columns="chance").isna().any().any()
    assert (table["n"] == 300).all() and (table["patients"] == 300).all() and (table["train"] == 450).all()
    for probe in ("logistic", "linear_svm", "rbf_svm"):
        one = {"embedding": "all", "probe": probe}
        assert value(table, **one, label="sex", metric="auc").value == pytest.approx(norm.cdf(2**0.5), abs=0.05)
        assert value(table, **one, label="sex", metric="balanced_accuracy").value == pytest.approx(
            norm.cdf(1), abs=0.06)
        assert value(table, **one, label="site", metric="balanced_accuracy").value > 0.65
    assert value(table, embedding="all", probe="ridge", label="age", metric="mae").value < 9.5
    assert value(table, embedding="all", probe="svr", label="age", metric="r2").value > 0.7
    absent = table[table["embedding"] == "none"]
    classes = absent[absent["metric"].isin(["auc", "balanced_accuracy"])]
    assert (classes["value"] - classes["chance"]).abs().max() < 0.12
    assert (absent.loc[absent["metric"] == "r2", "value"] < 0.05).all()
    assert (absent[["change", "change_low", "change_high"]] == 0).all(axis=None)
    assert value(table, embedding="all", probe="logistic", label="sex", metric="auc").change_low > 0.2
    assert set(table.loc[(table["label"] == "site") & (table["metric"] == "balanced_accuracy"), "chance"]) == {1 / 3}


def test_only_a_probe_that_bends_reads_a_label_coded_by_two_columns(table):
    read = {probe: value(table, embedding="all", probe=probe, label="code", metric="auc").value
            for probe in ("logistic", "linear_svm", "rbf_svm")}
    assert abs(read["logistic"] - 0.5) < 0.1 and abs(read["linear_svm"] - 0.5) < 0.1 and read["rbf_svm"] > 0.85


def test_the_mae_of_chance_is_that_of_the_training_rows_median(table):
    age = world()[1]["age"]
    by_hand = (age[600:] - age[:450].median()).abs().mean()
    assert value(table, embedding="none", probe="ridge", label="age", metric="mae").chance == pytest.approx(by_hand)


def test_units_of_the_embedding_play_no_part_and_test_rows_do_not_teach():
    embeddings, labels = world()
    x = embeddings["all"]
    other, told = x * 7 - 3, labels[["sex", "age"]].copy()
    first = read_out({"x": x, "scaled": other}, told, SPLIT, numbers=["age"], **FEW)
    for _, part in first.groupby(["label", "probe", "metric"]):
        assert np.ptp(part["value"]) == pytest.approx(0, abs=0.02 * part["value"].abs().max())
    swapped = x.copy()
    swapped[600] = 1e6  # one wild row of the test split moves no other
    told["sex"] = np.where(np.arange(N) >= 600, np.where(told["sex"] == "F", "M", "F"), told["sex"])
    flipped = read_out({"x": x}, told, SPLIT, numbers=["age"], **FEW)
    auc = [value(t, embedding="x", label="sex", probe="logistic", metric="auc").value for t in (first, flipped)]
    assert sum(auc) == pytest.approx(1)
    wild = read_out({"x": swapped}, labels[["sex"]], SPLIT, probes=["logistic"], **FEW)
    setting = [value(t, embedding="x", label="sex", probe="logistic", metric="auc").setting for t in (first, wild)]
    assert setting[0] == setting[1]
    assert abs(value(wild, metric="auc").value - auc[0]) < 0.02


def test_metrics_agree_with_scikit_learn_and_intervals_with_the_formula():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 400)
    score = np.round(y + rng.normal(size=400), 1)  # ties
    weights = np.concatenate(list(patient_weights(np.arange(400), 0, 500)))
    rates = class_rates(y == 1, score > 0.5, score, weights)
    assert rates[0, 3] == pytest.approx(roc_auc_score(y, score))
    assert (rates[0, 1] + 1 - rates[0, 2]) / 2 == pytest.approx(balanced_accuracy_score(y, score > 0.5))
    assert rates[7, 3] == pytest.approx(roc_auc_score(y, score, sample_weight=weights[7]))
    assert rates[1:, 0].std() == pytest.approx(np.sqrt(rates[0, 0] * (1 - rates[0, 0]) / 400), rel=0.15)
    doubled = np.concatenate(list(patient_weights(np.repeat(np.arange(200), 2), 0, 500)))
    assert (doubled[:, ::2] == doubled[:, 1::2]).all() and (doubled.sum(1) == 400).all()
    age = rng.normal(size=400)
    labels = pd.DataFrame({"age": 10 * age + 5 * rng.normal(size=400)})
    split = np.repeat(["train", "validation", "test"], [200, 100, 100])
    found = read_out({"x": age[:, None]}, labels, split, numbers=["age"], probes=["ridge"], **FEW)
    line = np.poly1d(np.polyfit(age[:200], labels["age"][:200], 1))
    assert value(found, metric="r2").value == pytest.approx(r2_score(labels["age"][300:], line(age[300:])), abs=0.01)


def test_rows_of_no_split_and_rows_without_a_label_do_not_count():
    embeddings, labels = world()
    split = SPLIT.astype(object)
    split[:50] = None
    labels = labels[["sex"]].astype(object)
    labels.loc[[60, 61, 800], "sex"] = None
    embeddings["all"][:50] = 1e9
    found = read_out(embeddings, labels, split, probes=["logistic"], **FEW)
    assert (found["train"] == 398).all() and (found["n"] == 299).all()
    assert value(found, embedding="all", metric="auc").value > 0.85


def test_judging_an_eraser():
    rng = np.random.default_rng(4)
    n = 1800
    disease = np.arange(n) % 2
    sex = np.where(rng.random(n) < np.where(np.arange(n) < 900, 0.8, 0.5), disease, 1 - disease)
    x = rng.normal(size=(n, 6))
    x[:, 0] += 2 * sex
    x[:, 1] += 2 * disease
    x[:, 2] *= 1 + 2 * sex  # a spread that no line reads
    split = np.array(["train"] * 600 + ["validation"] * 300 + ["test"] * 900)
    fresh = np.array([None] * 900 + ["train"] * 400 + ["validation"] * 150 + ["test"] * 350, dtype=object)
    sex, sick = pd.Series(np.array(["F", "M"])[sex], name="sex"), pd.Series(disease, name="effusion")
    train = split == "train"
    found = judged({"before": x, "pooled": leace(x, sex, train)(x), "within": leace(x, sex, train, target=sick)(x)},
                   sex, sick, split, fresh, **FEW)
    probes = found[found["label"] == "sex"].set_index(["embedding", "probe", "metric"])["value"]
    assert probes["before", "logistic", "auc"] > 0.88
    for eraser in ("pooled", "within"):
        assert probes[eraser, "rbf_svm", "auc"] > 0.65 and probes[eraser, "mlp", "auc"] > 0.65
    # pooled over rows in which sex goes with disease, the erased line is not that of sex: elsewhere sex is read again
    assert abs(probes["within", "logistic", "auc"] - 0.5) < 0.1 and probes["pooled", "logistic", "auc"] > 0.6
    gap = found[found["metric"] == "tpr_gap"].set_index("embedding")
    assert set(gap["group"]) == {"sex = M"} and gap.loc["before", "value"] > 0.1  # it used sex
    assert gap.loc["within", "value"] < gap.loc["before", "value"] - 0.05 and gap.loc["within", "change_high"] < 0
    auc = found[(found["label"] == "effusion") & (found["metric"] == "auc")]
    assert set(auc["group"]) == {"all", "sex = F", "sex = M"}
    lost = auc[auc["group"] == "all"].set_index("embedding")["value"]
    assert lost["pooled"] < lost["within"] - 0.01
    rates = found[found["metric"] == "tpr"].set_index(["embedding", "group"])["value"]
    assert rates["before", "sex = M"] - rates["before", "sex = F"] == pytest.approx(gap.loc["before", "value"])


@pytest.mark.parametrize(("change", "message"), [
    ({"patients": np.r_[np.arange(N - 1), 0]}, "1 patients are in splits 'train' and 'test', the first is that of row"),
    ({"split": np.array(["train"] * N)}, "split 'validation' has no row"),
    ({"split": np.array(["dev"] * N)}, "split 'dev' is unknown"),
    ({"split": SPLIT[:5]}, "split has 5 rows, expected 900"),
    ({"labels": pd.DataFrame({"sex": ["F"] * N})}, "label 'sex' is 'F' in all training rows"),
    ({"labels": pd.DataFrame({"sex": [None] * N})}, "label 'sex' is missing in all training rows"),
    ({"labels": pd.DataFrame({"age": np.arange(N) / 7})}, "label 'age': value .* not in both; a number is named"),
    ({"labels": pd.DataFrame({"age": np.full(N, 50.0)}), "numbers": ["age"]}, "label 'age' is 50.0 in all training"),
    ({"numbers": ["weight"]}, "there is no label 'weight', expected one of sex"),
    ({"probes": ["forest"]}, "there is no probe 'forest', expected one of logistic"),
    ({"against": "pca"}, "there is no embedding 'pca', expected one of x"),
    ({"embeddings": {"x": np.zeros((5, 2))}}, r"embedding 'x' has shape \(5, 2\), expected \(900, d\)"),
    ({"embeddings": {"x": np.full((N, 2), np.nan)}}, "embedding 'x': row 0 is NaN"),
    ({"groups": pd.Series([None] * N, name="site")}, "groups 'site': 300 values are missing in the test rows"),
    ({"groups": pd.Series(np.arange(N) // 890, name="site")}, "10 patients in site = 1, at least 30"),
    ({"patients": np.r_[np.arange(600), np.repeat([700, 701], 150)]}, "2 patients in test, at least 30"),
])
def test_bad_input(change, message):
    labels = pd.DataFrame({"sex": np.array(["F", "M"])[np.arange(N) % 2]})
    right = {"embeddings": {"x": np.random.default_rng(0).normal(size=(N, 2))}, "labels": labels, "split": SPLIT}
    with pytest.raises(ValueError, match=message):
        read_out(**right | change, **FEW)


def test_bad_disease_and_split_rows():
    x, labels = {"x": np.zeros((N, 1))}, pd.Series(np.arange(N) % 3, name="effusion")
    with pytest.raises(ValueError, match="'effusion' has 3 values, expected two"):
        judged(x, labels, labels, SPLIT, SPLIT)
    rows = split_rows(SPLIT, np.arange(N))
    assert [len(rows[side]) for side in ("train", "validation", "test")] == [450, 150, 300]
