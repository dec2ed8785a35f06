"""Simulated chest X-ray embeddings: exact in chunks, true to the design, and each cause of a gap by itself."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit, ndtr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bias_tutorial import storage
from bias_tutorial.answer_key import Group, finding_by_group
from bias_tutorial.simulate import cxr_embeddings as cxr
from bias_tutorial.simulate.cxr_embeddings import ATTRIBUTES, CAUSES, DRAWN, FINDINGS, CxrDesign, cxr_embeddings

WIDTH = 128


def table_of(design, n, seed=0):
    return cxr.drawn_table({"design": cxr.asdict(design), "n_studies": n, "seed": seed, "features": WIDTH})


@pytest.fixture(scope="module")
def cohort():
    return cxr_embeddings(CxrDesign.with_causes(*CAUSES), 3000, seed=4, features=WIDTH)


@pytest.fixture(scope="module")
def large():
    """A table of all causes at once."""
    return table_of(CxrDesign.with_causes(*CAUSES), 100_000)


# ---------------------------------------------------------------------- form and exactness
def test_a_cohort_keeps_the_contract(cohort, tmp_path):
    assert cohort.images.shape == (3000, WIDTH) and cohort.images.dtype == np.float32
    assert np.isfinite(cohort.images).all() and not cohort.table.isna().any().any()
    assert tuple(cohort.schema.targets) == FINDINGS and len(FINDINGS) == 14
    assert cohort.schema.attributes == ATTRIBUTES
    one_each = cohort.table.groupby("patient_id")[[*ATTRIBUTES, "age", "split"]].nunique()
    assert (one_each == 1).all().all() and 2 < len(cohort) / len(one_each) < 3
    again = cxr_embeddings(CxrDesign(**json.loads(json.dumps(cohort.meta))["design"]), 3000, 4, WIDTH)
    np.testing.assert_array_equal(again.images, cohort.images)
    pd.testing.assert_frame_equal(again.table, cohort.table)
    storage.save(cohort, tmp_path / "cohort")
    np.testing.assert_array_equal(np.asarray(storage.load(tmp_path / "cohort").images[:]), cohort.images)


@pytest.mark.parametrize("edges", [(0, 1, 255, 256, 257, 1000, 3000), (0, 2999, 3000), (700, 701)])
def test_rows_do_not_depend_on_the_pieces_they_are_made_in(cohort, edges):
    parts = [cxr.render(cohort.meta, cohort.table, *piece) for piece in zip(edges, edges[1:], strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts), cohort.images[edges[0]:edges[-1]])


def test_rows_depend_on_seed_and_number_alone(cohort):
    fewer = cxr_embeddings(CxrDesign.with_causes(*CAUSES), 700, seed=4, features=WIDTH)
    np.testing.assert_array_equal(fewer.images, cohort.images[:700])
    pd.testing.assert_frame_equal(fewer.table.drop(columns="split"), cohort.table[:700].drop(columns="split"))
    other = cxr_embeddings(CxrDesign.with_causes(*CAUSES), 700, seed=5, features=WIDTH)
    assert np.abs(np.corrcoef(other.images.ravel(), fewer.images.ravel())[0, 1]) < 0.1


def test_a_cause_changes_nothing_else():
    plain = table_of(CxrDesign(), 5000)
    noisy = table_of(CxrDesign.with_causes("label_noise"), 5000)
    untouched = [c for c in plain if c not in FINDINGS]
    pd.testing.assert_frame_equal(plain[untouched], noisy[untouched])
    affected = noisy["race"].isin(["D", "E"]) | (noisy["insurance"] == "plan 3")
    assert (plain.loc[~affected, list(FINDINGS)] == noisy.loc[~affected, list(FINDINGS)]).all().all()
    blurred = table_of(CxrDesign.with_causes("feature_quality"), 5000)
    seen = [f"{f} seen" for f in FINDINGS]
    pd.testing.assert_frame_equal(plain.drop(columns=seen), blurred.drop(columns=seen))


# ---------------------------------------------------------------------- true to the design
def test_prevalence_by_group_is_the_designs(large):
    for finding in ("Atelectasis", "Pleural Other", "Support Devices"):
        for race, rows in large.groupby("race"):
            odds = CAUSES["prevalence"]["odds"]["race"].get(race, 1)
            expected = expit(logit(cxr.PREVALENCE[finding]) + np.log(odds))
            # Studies of a patient go together: at most 4 times the variance of independent ones.
            tolerance = 4 * np.sqrt(4 * expected * (1 - expected) / len(rows))
            assert rows[f"{finding} present"].mean() == pytest.approx(expected, abs=tolerance)


def test_shares_and_ages_are_the_designs(large):
    patients = large.drop_duplicates("patient_id")
    for name, shares in CAUSES["representation"]["shares"].items():
        found = patients[name].value_counts(normalize=True)
        for value, share in shares.items():
            assert found[value] == pytest.approx(share, abs=4 * np.sqrt(share / len(patients)))
    bins = pd.cut(patients["age"], [*cxr.AGE_EDGES], labels=list(ATTRIBUTES["age_group"]), right=False)
    assert (bins.astype(str) == patients["age_group"]).all()
    assert patients["split"].value_counts(normalize=True)["train"] == pytest.approx(0.6, abs=0.001)


def test_labels_are_missed_and_invented_at_the_designs_rates():
    design = CxrDesign.with_causes("label_noise", invented={"sex": {"F": 0.05}})
    table = table_of(design, 60_000)
    for (race, plan), rows in table.groupby(["race", "insurance"]):
        missed = 1 - (1 - {"D": 0.2, "E": 0.3}.get(race, 0)) * (1 - 0.2 * (plan == "plan 3"))
        present = np.concatenate([rows.loc[rows[f"{f} present"] == 1, f] for f in DRAWN])
        assert 1 - present.mean() == pytest.approx(missed, abs=4 * np.sqrt(0.25 / len(present)))
    for sex, rate in (("F", 0.05), ("M", 0)):
        rows = table[table["sex"] == sex]
        absent = np.concatenate([rows.loc[rows[f"{f} present"] == 0, f] for f in DRAWN])
        assert absent.mean() == pytest.approx(rate, abs=0.002)


def test_no_finding_follows_from_the_others(large):
    pathology = [f for f in DRAWN if f != "Support Devices"]
    assert len(pathology) == 12
    for suffix in ("", " present"):
        none = (large[[f + suffix for f in pathology]] == 0).all(axis=1)
        assert (large["No Finding" + suffix] == none).all()
    assert (large["No Finding"] & large["Support Devices"]).any()
    rates = large.assign(false=(large["No Finding"] == 1) & (large["No Finding present"] == 0)).groupby("race")["false"]
    assert rates.mean()["E"] > rates.mean()["A"] + 0.05  # missed findings make a study look normal in its report


def test_severity_is_normal_given_the_class_and_correlated_within_patient(large):
    noise = np.column_stack([large[f"{f} severity"] - 2.0 * large[f"{f} present"] + 1 for f in FINDINGS])
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.02)
    first = np.flatnonzero(large["patient_id"].to_numpy()[:-1] == large["patient_id"].to_numpy()[1:])
    icc = [np.corrcoef(noise[first, k], noise[first + 1, k])[0, 1] for k in range(14)]
    np.testing.assert_allclose(icc, 0.5, atol=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(14)).max() < 0.02
    alone = table_of(CxrDesign(patient_correlation=0.0, finding_correlation=0.0), 30_000)
    truth = alone[[f"{f} present" for f in DRAWN]].to_numpy()
    assert np.abs(np.corrcoef(truth.T) - np.eye(13)).max() < 0.03
    assert np.corrcoef(large[[f"{f} present" for f in DRAWN]].T).min() > 0.02


def test_blur_adds_up_over_attributes(large):
    noise = sum((large[f"{f} seen"] - large[f"{f} severity"]) ** 2 for f in FINDINGS) / 14
    for (race, plan), variance in noise.groupby([large["race"], large["insurance"]]).mean().items():
        assert variance == pytest.approx({"D": 0.25, "E": 1.0}.get(race, 0) + 0.25 * (plan == "plan 3"), abs=0.05)


# ---------------------------------------------------------------------- what an embedding shows
def test_a_findings_direction_reads_the_seen_severity():
    table, meta = table_of(CxrDesign(), 4000), {"seed": 0, "n_studies": 4000, "features": 300}
    for design in (CxrDesign(), CxrDesign(appearance=60.0, read_out=0.5)):
        images = cxr.render(meta | {"design": cxr.asdict(design)}, table)
        read = images @ cxr._directions(300)[:14].T * design.read_out
        turned = np.cos(np.deg2rad(design.appearance)) * table[[f"{f} seen" for f in FINDINGS]]
        np.testing.assert_allclose((read - turned).std(axis=0), design.read_out, rtol=0.05)
    own = np.flatnonzero(table["race"] == "C")
    read = images[own] @ cxr._directions(300)[14 + 2 * 14:14 + 3 * 14].T * 0.5
    sine = np.sin(np.deg2rad(60)) * table.loc[own, [f"{f} seen" for f in FINDINGS]]
    np.testing.assert_allclose((read - sine).std(axis=0), 0.5, rtol=0.1)


@pytest.mark.parametrize("visible", [0.0, 3.0])
def test_groups_are_seen_as_the_design_says(visible):
    cohort = cxr_embeddings(CxrDesign(visible=visible), 4000, 0, WIDTH)
    sex = (cohort.table["sex"] == "F").to_numpy()
    reader = LogisticRegression(C=0.01).fit(cohort.images[:3000], sex[:3000])
    accuracy = reader.score(cohort.images[3000:], sex[3000:])
    # Two points 3 sqrt(2) apart in noise of sd 1: Phi(2.12) = .983 at best.
    assert 0.93 < accuracy < 0.99 if visible else 0.44 < accuracy < 0.56


@pytest.mark.parametrize("cause", [None, "prevalence", "feature_quality"])
def test_an_observer_of_the_seen_severity_lies_on_the_key(cause):
    """Bayes-optimal logistic reader of one finding's severity by race, against the key of the design."""
    design = CxrDesign.with_causes(*([cause] if cause else []), patient_correlation=0.0, studies=1.0,
                                   missed={}, blur={"race": {"E": 1.0}} if cause == "feature_quality" else {})
    table, finding = table_of(design, 60_000), "Atelectasis"
    truth = design.truth(finding).groupby("race").first()
    key = finding_by_group({race: Group(0.2, row["prevalence"], separation=row["separation"])
                            for race, row in truth.iterrows()})
    extra = np.random.default_rng(0).normal(scale=design.read_out, size=len(table))
    for race, rows in table.assign(read=table[f"{finding} seen"] + extra).groupby("race"):
        reader = LogisticRegression(C=1e6).fit(rows[["read"]], rows[finding])
        said = reader.predict(rows[["read"]])
        sick = rows[f"{finding} present"] == 1
        assert 1 - said[sick].mean() == pytest.approx(key.loc[race, "fnr"], abs=0.04)
        assert said[~sick].mean() == pytest.approx(key.loc[race, "fpr"], abs=0.01)
    if cause is None:
        assert np.ptp(key["fnr"]) == 0
    else:
        assert np.ptp(key["fnr"]) > 0.1


def test_representation_hurts_the_small_group_only_where_looks_differ():
    """A linear reader of all groups; AUC of A (60% of training) less that of E (3%), on the same equal shares."""
    unequal = CAUSES["representation"]["shares"]

    def differences(appearance):
        plain = CxrDesign(appearance=appearance, read_out=0.5)
        test = cxr_embeddings(plain, 5000, 9, WIDTH)
        race, sick = test.table["race"], test.table["Edema present"]
        for design in (plain, replace(plain, shares=unequal)):
            train = cxr_embeddings(design, 5000, 1, WIDTH)
            reader = LogisticRegression(C=0.01, max_iter=300).fit(train.images, train.table["Edema"])
            score = reader.decision_function(test.images)
            auc = {r: roc_auc_score(sick[race == r], score[race == r]) for r in "AE"}
            yield auc["A"] - auc["E"]

    equal, few = differences(75.0)
    assert equal < 0.08 and few > equal + 0.1
    equal, few = differences(0.0)
    assert abs(few - equal) < 0.03


def test_the_truth_of_a_stratum():
    truth = CxrDesign.with_causes(*CAUSES).truth("Fracture")
    assert truth["share"].sum() == pytest.approx(1) and len(truth) == 150
    row = truth.loc[("F", "E", "80+", "plan 3")]
    assert row["share"] == pytest.approx(0.45 * 0.03 * 0.15 * 0.12)
    assert row["prevalence"] == pytest.approx(0.015 / (0.97 + 0.015))
    assert row["missed"] == pytest.approx(1 - 0.7 * 0.8) and row["invented"] == 0
    assert row["separation"] == pytest.approx(2 / np.sqrt(1 + 1 + 0.25 + 0.09))
    assert ndtr(Group(**row).separation / np.sqrt(2)) == pytest.approx(0.822, abs=1e-3)


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(("settings", "message"), [
    ({"shares": {"sex": {"F": 1.0}}}, "shares of race must sum to 1, got {}"),
    ({"shares": CAUSES["representation"]["shares"] | {"sex": {"F": 0.5, "M": 0.4}}}, "shares of sex must sum to 1"),
    ({"odds": {"race": {"F": 2}}}, "odds: there is no race = 'F'"),
    ({"odds": {"height": {"F": 2}}}, "odds: there is no height = 'F'"),
    ({"odds": {"race": {"A": 0}}}, "odds of race = A must be above 0, got 0"),
    ({"missed": {"race": {"A": 1}}}, r"missed of race = A must be in \[0, 1\), got 1"),
    ({"missed": {"race": {"A": 0.6}}, "invented": {"sex": {"F": 0.5}}}, "must sum to less than 1"),
    ({"blur": {"race": {"A": -1}}}, "blur of race = A must be at least 0, got -1"),
    ({"prevalence": {"Edema": 0.1}}, "prevalence needs the 13 findings"),
    ({"prevalence": cxr.PREVALENCE | {"Edema": 1.0}}, "prevalence of Edema must be between 0 and 1, got 1.0"),
    ({"patient_correlation": 1.0}, "patient_correlation must be at least 0 and below 1"),
    ({"appearance": 91}, r"appearance must be in \[0, 90\] degrees, got 91"),
    ({"studies": 0.5}, "studies must be at least 1"), ({"read_out": 0}, "read_out must be above 0"),
    ({"visible": -1}, "visible must be at least 0")])
def test_an_impossible_design_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CxrDesign(**settings)


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="unknown cause 'noise', expected one of representation, prevalence"):
        CxrDesign.with_causes("noise")
    with pytest.raises(ValueError, match="the design draws no finding 'No Finding'"):
        CxrDesign().truth("No Finding")
    for values, message in (((99, 0, 128), "n_studies must be a whole number of at least 100"),
                            ((100, -1, 128), "seed must be"), ((100, 0, 114), "features must be a whole number of at "
                                                                              "least 115, got 114")):
        with pytest.raises(ValueError, match=message):
            cxr_embeddings(CxrDesign(), *values)
