"""Measures behind chapter 6: the arithmetic by patient, the arms, and splits in the wrong order."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit, ndtr
from sklearn.metrics import roc_auc_score

from bias_tutorial.findings import Counts, Predictions
from bias_tutorial.simulate.cxr_embeddings import DRAWN, FINDINGS, CxrDesign
from bias_tutorial.studies import chapter_06 as study

SMALL = {"n_learn": 1500, "n_test": 1500, "features": 115, "by": ["race"], "recipe": {"epochs": 2, "precision": "fp32"},
         "design": {"read_out": 0.5, "prevalence": dict.fromkeys(DRAWN, 0.25)}}


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)
    patients = np.sort(np.r_[np.arange(150), rng.integers(150, size=450)])
    labels = pd.DataFrame((rng.random((600, 14)) < 0.3).astype(float), columns=FINDINGS)
    probability = np.clip(0.3 * labels.to_numpy() + 0.7 * rng.random((600, 14)), 0, 1).round(2)
    groups = pd.DataFrame({"race": np.array(list("AE"))[patients % 2]})
    return Predictions(labels, probability, groups, patients)


@pytest.mark.parametrize("what", ["fnr", "fpr"])
def test_a_rate_by_patient_has_the_rate_as_mean_and_its_bootstrap_interval(predictions, what):
    cut = dict.fromkeys(FINDINGS, 0.5)
    found = study.exam(predictions)
    counts = Counts(predictions, cut, what, found.groups)
    g = list(found.groups).index("race = E")
    drawn = counts.resampled(1, 4000)[:, 3, g]
    values = study.rate(found, FINDINGS[3], 0.5, "race = E", what)
    assert values.shape == (150,)
    assert values.mean() == pytest.approx(counts.rates[3, g], abs=1e-12)
    assert values.std(ddof=1) / np.sqrt(150) == pytest.approx(drawn.std(), rel=0.1)


def test_an_auc_by_patient_is_scikit_learns_with_ties_and_weights_and_has_the_bootstrap_spread(predictions):
    rng = np.random.default_rng(2)
    found, weight = study.exam(predictions), rng.uniform(0.2, 3, 600)
    values = study.auc(found, FINDINGS[0], weight)
    y, score = found.label[:, 0], found.probability[:, 0]
    assert values.mean() == pytest.approx(roc_auc_score(y, score, sample_weight=weight), abs=1e-12)
    rows = [np.flatnonzero(found.patient == p) for p in range(150)]
    drawn = []
    for _ in range(400):
        some = np.concatenate([rows[p] for p in rng.integers(150, size=150)])
        drawn.append(roc_auc_score(y[some], score[some], sample_weight=weight[some]))
    assert values.std(ddof=1) / np.sqrt(150) == pytest.approx(np.std(drawn), rel=0.15)


def test_a_group_or_mixture_without_a_row_that_counts_is_named(predictions):
    found = study.exam(predictions)
    nobody = found._replace(label=np.zeros_like(found.label))
    with pytest.raises(ValueError, match="group 'race = E': no row that counts towards the fnr of 'Edema'"):
        study.rate(nobody, "Edema", 0.5, "race = E")
    with pytest.raises(ValueError, match="'Edema': rows with and without it are needed"):
        study.auc(nobody, "Edema", np.ones(600))


def test_levelling_down_is_a_narrower_range_that_no_race_gains_from():
    before = {"fixed": np.array([[.2, .4], [.2, .4], [.2, .4]])}
    after = {"fixed": np.array([[.4, .4], [.2, .3], [.1, .4]])}  # levelled down; helped; wider
    assert study.levelled(before, after) == {"narrowed_fixed": pytest.approx(2 / 3),
                                             "levelled_fixed": pytest.approx(1 / 3)}


def test_unreadable_rows_are_zeros_or_left_out_and_only_those_of_the_few():
    learn = study.cohorts(study.design([], SMALL), SMALL, 900)[0]
    zeros, left_out = (study.unreadable(learn, 0.5, 1, way) for way in ("zeros", "left_out"))
    lost = (zeros.images == 0).all(axis=1)
    assert set(learn.table["race"][lost]) == {study.FEW}
    assert lost.sum() == len(learn) - len(left_out) > 0.3 * (learn.table["race"] == study.FEW).sum()
    found = study.silent_zeros({**SMALL, "causes": [], "unreadable": 0.5}, 901)
    assert found["zeros_auc_few_less"] == found["zeros_auc_few"] - found["left_out_auc_few"] < 0
    low, high = found["zeros_auc_few_readable_change_interval"]
    assert low < found["zeros_auc_few_readable_change"] < high


def test_the_key_gap_of_two_prevalences_is_the_formula():
    # One finding's cut: FNR = Phi((logit(cut) - logit(prevalence)) / s - s / 2) in each group; odds of E are halved.
    made = study.design(["prevalence"], {"design": {"read_out": 1.0}})
    cut, s = dict.fromkeys(DRAWN, 0.2), 2 / np.sqrt(2)
    hand = np.mean([ndtr((logit(0.2) - logit(p) - np.log(0.5)) / s - s / 2) - ndtr((logit(0.2) - logit(p)) / s - s / 2)
                    for p in made.prevalence.values()])
    by = ["race", "insurance"]
    assert study.key_gap(made, by, cut, "none") == pytest.approx(hand, abs=1e-9)
    assert study.key_gap(made, by, cut, "counts") == pytest.approx(hand, abs=1e-9)
    assert study.key_gap(made, by, cut, "reweighing") == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="a cause acts within the groups race"):
        study.key_gap(study.design(["feature_quality"], {}), ["race"], cut, "none")


def test_test_patients_have_races_in_equal_shares_and_are_not_those_that_taught():
    learn, test = study.cohorts(study.design(["prevalence"], SMALL), {**SMALL, "n_test": 4000}, 900)
    assert set(learn.table["split"]) == {"train", "validation"} and set(test.table["split"]) == {"test"}
    people = test.table.drop_duplicates("patient_id")["race"].value_counts(normalize=True)
    assert people.sub(0.2).abs().max() < 0.05
    assert learn.table["race"].eq("A").mean() > 0.5
    assert not np.array_equal(learn.images[:900], test.images[:900])


def test_the_subset_has_as_many_rows_as_balancing_leaves_different_ones():
    learn = study.cohorts(study.design([], SMALL), SMALL, 900)[0]
    for like in ("counts", "released"):
        other = study.sample(like, learn, ["race"], 3)
        subset = study.sample("subset" if like == "counts" else "subset_released", learn, ["race"], 3)
        assert len(subset.rows) == len(np.unique(other.rows)) < len(other.rows)
    assert study.sample("plain", learn, ["race"], 3) is None


def test_results_of_a_run_agree_with_each_other():
    arms = ["plain", "subset", "counts", "reweighing"]
    found = study.resampled({**SMALL, "causes": ["prevalence"], "arms": arms}, 901)
    for arm in arms:
        for how in study.HOWS:
            assert found[f"{arm}_worst_{how}"] >= found[f"{arm}_fnr_{how}"]
        low, high = found[f"{arm}_gap_youden_interval"]
        assert low < found[f"{arm}_gap_youden"] < high
    assert found["counts_auc_change"] == pytest.approx(found["counts_auc"] - found["plain_auc"], abs=1e-12)
    assert "plain_auc_change" not in found and "subset_auc_beyond" not in found
    assert found["counts_gap_youden_beyond"] == pytest.approx(
        found["counts_gap_youden"] - found["subset_gap_youden"], abs=1e-12)
    assert abs(found["counts_rate_gap"]) > 0.01 > abs(found["reweighing_rate_gap"])
    assert found["plain_rate_gap"] == pytest.approx(found["counts_rate_gap"], abs=0.03)
    assert found["plain_rows"] == found["plain_different"] == found["reweighing_rows"] > found["counts_different"]


def test_each_way_to_split_has_the_patients_where_its_name_says():
    made = study.design(["representation"], SMALL)
    learn = study.cohorts(made, {**SMALL, "n_learn": 2000}, 900)[0]
    honest, drawn = study.split(learn, "honest", ["race"], made.splits, 0)
    assert study.both_sides(honest) == 0 and drawn is not None
    rows, _ = study.split(learn, "rows", ["race"], made.splits, 0)
    assert study.both_sides(rows) > 0.5 and len(rows) == len(learn)
    copies, drawn = study.split(learn, "copies", ["race"], made.splits, 0)
    assert drawn is None
    few = copies.table[copies.table["race"] == "E"]
    images = pd.Series([image.tobytes() for image in copies.images[few.index]], index=few.index)
    taught = set(images[few["split"] == "train"])
    assert images[few["split"] == "validation"].isin(taught).mean() > 0.5  # the very same images


def test_leaks_reports_each_way_against_the_honest_one():
    found = study.leaks({**SMALL, "causes": ["representation"]}, 901)
    for way in ("honest", "rows", "copies"):
        assert found[f"{way}_inflation"] == pytest.approx(found[f"{way}_validation"] - found[f"{way}_test"], abs=1e-12)
        low, high = found[f"{way}_inflation_interval"]
        assert low < found[f"{way}_inflation"] < high
        assert found[f"{way}_beyond"] == pytest.approx(found[f"{way}_inflation"] - found["honest_inflation"], abs=1e-12)
    assert found["honest_test_change"] == 0


def test_rows_picked_by_score_lose_findings_where_groups_shrink_and_gain_them_where_they_grow():
    odds = {"age_group": {"80+": 8.0, "0-20": 0.05}}
    found = study.stripped({"causes": [], "n_learn": 20000, "design": {"odds": odds}}, 900)
    assert found["shrunk"] < -0.05 and found["grown"] > 0.005 and found["shrunk_rows"] > 0.05
    assert 0 < found["scored"] < 1
    nothing = study.stripped({"causes": [], "n_learn": 20000, "design": {"read_out": 1.0}}, 900)
    assert nothing["scored"] < found["scored"] and nothing["shrunk_rows"] < found["shrunk_rows"]


def test_shares_made_equal_leave_the_others():
    shares = study.equal(study.SHARES, "race")
    assert set(shares["race"].values()) == {0.2} and shares["sex"] == study.SHARES["sex"]
    assert replace(CxrDesign(), shares=shares).strata()["share"].sum() == pytest.approx(1)
