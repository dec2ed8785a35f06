"""Measures behind chapter 5: rows by cell, names and signs of results, erasure, gaps, the hidden shift and audits."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bias_tutorial.claims import load_claims
from bias_tutorial.clustering import HiddenMode
from bias_tutorial.studies import chapter_05 as study
from bias_tutorial.studies import chapter_05_audits as audits

SMALL = {"n_train": 160, "n_validation": 80, "n_test": 400, "shape": [32, 32], "latent": 16, "n_probe": 48,
         "n_probe_test": 200, "design": {"hidden_dose": 3}, "machines": True, "agreements": [0.5, 0.9],
         "sources": ["variational", "diffusion", "pca", "pca8"],
         "variational": {"width": 8, "epochs": 2, "precision": "fp32"},
         "diffusion": {"width": 8, "epochs": 1, "precision": "fp32"},
         "supervised": {"epochs": 1, "batch_size": 32, "precision": "fp32"}, "prevalence": [0.15, 0.4],
         "cuts": [0.6, 0.4]}
SHIFT = {"n_train": 800, "n_validation": 100, "n_test": 100, "shape": [32, 32], "latent": 8, "sources": ["pca"],
         "design": {"hidden_dose": 8}}
ERASER = {"n_train": 300, "n_validation": 80, "n_test": 500, "shape": [32, 32], "latent": 64, "n_probe": 120,
          "n_probe_test": 300}
CELLS = (("F", 0), ("F", 1), ("M", 0), ("M", 1))


@pytest.fixture(scope="module")
def embedded():
    return study.embedded(SMALL, 0)


@pytest.fixture(scope="module")
def shifted():
    return study.shifted(SHIFT, 0)


@pytest.fixture(scope="module")
def mapped():
    return audits.map_faults({"near": 10, "far": 40, "spread": 4, "perplexities": [30]}, 0)


@pytest.fixture(scope="module")
def images():
    return study.cohort({**SMALL, "n_test": 160}, 0)


@pytest.fixture(scope="module")
def people():
    """Table of 40 in every cell and split, and features: the finding in one, sex in three, noise in four."""
    table = pd.DataFrame([(split, sex, present) for split in ("train", "validation", "test") for sex, present in CELLS
                          for _ in range(40)], columns=["split", "sex", study.FINDING])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(table), 8))
    x[:, 0] += 1.5 * table[study.FINDING]
    x[:, 1:4] += 0.9 * (table["sex"] == "F").to_numpy()[:, None]
    return table, x


def plain(results):
    """Whether all results are plain finite numbers, with their intervals as ordered pairs of them."""
    for name, value in results.items():
        numbers = value if name.endswith("_interval") else [value]
        assert all(type(number) in (int, float) and np.isfinite(number) for number in numbers), (name, value)
        if name.endswith("_interval"):
            assert len(value) == 2 and value[0] <= value[1] and name.removesuffix("_interval") in results, name
    return True


# ---------------------------------------------------------------------------------------------- pure functions
def test_rows_have_exactly_the_counts_asked_for_in_their_own_split(people):
    table, _ = people
    shares = {("F", 1): 0.1, ("F", 0): 0.4, ("M", 1): 0.3, ("M", 0): 0.2}
    split = study.rows(table, shares, (60, 20, 40), 3)
    found = table.assign(used=split).groupby(["used", "sex", study.FINDING]).size()
    for name, count in (("train", 60), ("validation", 20), ("test", 40)):
        assert {cell: found[name, *cell] for cell in shares} == {c: round(count * s) for c, s in shares.items()}
    used = split != None  # noqa: E711 - an array of objects is compared, value by value
    assert used.sum() == 120 and (split[used] == table["split"][used]).all()
    np.testing.assert_array_equal(split, study.rows(table, shares, (60, 20, 40), 3))
    assert (split != study.rows(table, shares, (60, 20, 40), 4)).any()


def test_too_few_rows_are_refused_by_split_and_cell(people):
    table, _ = people
    with pytest.raises(ValueError, match="split 'validation' has 40 rows with sex F and cardiomegaly 1, 45 are needed"):
        study.rows(table, study.agreeing(0.9), (80, 100, 80), 0)


def test_two_draws_share_no_training_row(people):
    table, _ = people
    for p in (0.5, 0.9):
        settings = {"n_probe": 36, "n_eraser": 60, "n_probe_test": 60}
        split, apart = study.two_draws(table, p, settings, 3)
        for drawn, share, count in ((split, p / 2, 60), (apart, 0.25, 36)):
            assert [(drawn == part).sum() for part in ("train", "validation", "test")] == [count, 12, 60]
            women = (drawn == "train") & (table["sex"] == "F").to_numpy() & (table[study.FINDING] == 1).to_numpy()
            assert women.sum() == round(count * share)
        assert not ((split == "train") & (apart == "train")).any()


def test_a_normal_twin_has_the_moments_and_nothing_else():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sex": rng.choice(["F", "M"], 8000), study.FINDING: rng.integers(0, 2, 8000)})
    woman, sick = (table["sex"] == "F").to_numpy(), table[study.FINDING].to_numpy() == 1
    x = rng.normal(size=(8000, 3)) * np.where(woman, 3, 1)[:, None]  # the spread tells sex, and no line sees it
    x[:, 1] += x[:, 0] + 2 * sick
    x[:, 2] = x[:, 2] ** 2 + woman * sick
    twin = study.normal_twin(x, table, 1)
    for cell in (woman & sick, woman & ~sick, ~woman & sick, ~woman & ~sick):
        np.testing.assert_allclose(twin[cell].mean(axis=0), x[cell].mean(axis=0), atol=0.6)  # 5 standard errors
    inside = [part - part.mean(axis=0) for part in (twin[woman & sick], twin[~woman & ~sick])]
    np.testing.assert_allclose(*(np.cov(part.T) for part in inside), atol=8)
    assert x[woman, 0].std() > 2.5 * x[~woman, 0].std() and twin[woman, 0].std() < 1.1 * twin[~woman, 0].std()
    np.testing.assert_array_equal(twin, study.normal_twin(x, table, 1))


def test_shares_that_agree_to_a_degree():
    assert study.agreeing(0.8) == {("F", 1): 0.4, ("M", 1): pytest.approx(0.1), ("F", 0): pytest.approx(0.1),
                                   ("M", 0): 0.4}
    assert set(study.agreeing(0.5).values()) == {0.25}
    assert study.counted({"n_probe": 100, "n_probe_test": 40}) == [100, 33, 40]


def test_gaps_by_patient_have_the_gap_as_mean_and_its_spread():
    rng = np.random.default_rng(1)
    called, sick, women = rng.random((3, 400)) < np.array([[0.4], [0.5], [0.6]])
    pairs = {"tpr": (called, sick), "fpr": (called, ~sick), "ppv": (sick, called)}
    found = study.rate_gaps(called, sick, women)
    assert set(found) == set(pairs)
    for rate, (hit, trial) in pairs.items():
        rates = {sex: np.mean([hit[k] for k in range(400) if trial[k] and women[k] == sex]) for sex in (True, False)}
        assert found[rate].mean() == pytest.approx(rates[True] - rates[False], abs=1e-12)
        for k in range(400):  # what a patient adds: how far he is from his own group's rate, over that group's share
            own = trial & (women == women[k])
            adds = trial[k] * (hit[k] - rates[bool(women[k])]) / own.mean() * (1 if women[k] else -1)
            assert found[rate][k] == pytest.approx(rates[True] - rates[False] + adds, abs=1e-12)
        drawn = [study.rate_gaps(called[some], sick[some], women[some])[rate].mean()
                 for some in rng.integers(400, size=(400, 400))]
        assert found[rate].std() / 20 == pytest.approx(np.std(drawn), rel=0.15)  # 4 standard errors of the spread


def test_agreement_does_not_care_which_side_is_which():
    truth = pd.Series([0, 0, 0, 0, 1, 1])
    inside = np.array([False, False, True, False, True, True])
    assert study.agreement(inside, truth) == study.agreement(~inside, truth) == pytest.approx((0.75 + 1) / 2)
    assert study.agreement(np.array([True, True, False, False, True, False]), truth) == 0.5


def test_ratios_of_distance_and_width_by_hand():
    pair = np.array([[-1.0, 0.0], [1.0, 0.0]])  # 2 wide
    groups = np.array([pair, pair + [0.0, 5.0], 3 * pair + [6.0, -8.0]])
    assert audits._ratios(groups) == (pytest.approx(10 / 5), pytest.approx(3))


def test_told_names_its_results_by_source_label_and_probe():
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"sex": rng.permutation(np.repeat(["F", "M"], 120)), "hidden": rng.integers(2, size=240),
                          "age": rng.uniform(20, 80, 240)})
    split = np.repeat(["train", "validation", "test"], 80)
    sources = {name: rng.normal(size=(240, 4)) for name in ("variational", "diffusion", "pca", "pixels")}
    sources["variational"][:, 0] += 3 * (table["sex"] == "F")
    found = study.told(sources, table, split, {"labels": ["sex", "hidden"], "machines": True}, 0)
    read = ["sex", "sex_accuracy", "hidden", "hidden_accuracy", "age", "age_error"]
    machines = [f"sex{metric}_{kernel}_svm" for metric in ("", "_accuracy") for kernel in ("linear", "rbf")]
    names = {f"{source}_{what}{end}" for source in sources for what in read + machines * (source != "pixels")
             for end in (("", "_beyond") if source != "pca" else ("",))}
    names |= {f"diffusion_{what}_less" for what in read}
    assert set(found) == names | {f"{name}_interval" for name in names} and plain(found)
    assert found["variational_sex_beyond"] == pytest.approx(found["variational_sex"] - found["pca_sex"], abs=1e-12)
    assert found["variational_sex_interval"][0] > 0.9 and found["variational_sex_beyond_interval"][0] > 0.2
    assert found["diffusion_sex_less"] == pytest.approx(found["diffusion_sex"] - found["variational_sex"], abs=1e-12)
    alone = study.told({"variational": sources["variational"], "pca": sources["pca"]}, table, split,
                       {"labels": ["sex"]}, 0)
    assert not [name for name in alone if name.endswith("_less") or "svm" in name or "hidden" in name]
    assert alone["variational_sex"] == found["variational_sex"]


# ---------------------------------------------------------------------------------------------- erasers
def test_every_eraser_is_fitted_both_ways():
    assert study.FORMS == {
        "none": ("none", ""), "mean_projection_pooled": ("mean_projection", "pooled"),
        "mean_projection_within": ("mean_projection", "within"), "inlp_pooled": ("inlp", "pooled"),
        "inlp_within": ("inlp", "within"), "leace_pooled": ("leace", "pooled"), "leace_within": ("leace", "within")}


def test_pooled_and_within_class_part_only_where_sex_goes_with_the_finding(people):
    table, x = people
    far = {}
    for p in (0.5, 0.9):
        split = study.rows(table, study.agreeing(p), (80, 20, 40), 5)
        kept = study.versions(x, table, split)
        assert list(kept) == list(study.FORMS) and kept["none"] is x
        train, sex = split == "train", (table["sex"] == "F").to_numpy()
        sick = table[study.FINDING].to_numpy() == 1
        for name in ("mean_projection", "leace"):
            pooled, within = kept[f"{name}_pooled"], kept[f"{name}_within"]
            step = pooled[train & sex].mean(axis=0) - pooled[train & ~sex].mean(axis=0)
            assert np.abs(step).max() < 1e-9  # no difference of means is left in the rows it was fitted on
            means = np.array([within[train & (sick == side)].mean(axis=0) for side in (0, 1)])
            inside = within - means[sick.astype(int)]
            assert np.abs(inside[train & sex].mean(axis=0) - inside[train & ~sex].mean(axis=0)).max() < 1e-9
            far[name, p] = np.abs(pooled - within).mean()
    assert far["mean_projection", 0.5] < 1e-9  # equal cells: the two directions are one
    assert far["leace", 0.5] < 0.03 < 0.1 < far["leace", 0.9] and far["mean_projection", 0.9] > 0.1


def test_own_thresholds_add_what_the_thresholds_add(people):
    table, x = people
    settings = {"n_probe": 80, "n_probe_test": 80, "prevalence": [0.25, 0.4], "cuts": [0.7, 0.3]}
    found = study.by_group(x, table, settings, 0)
    places = {f"{cause}_{name}_{rate}" for cause in ("prevalence", "equal", "cuts", "own") for name in study.FORMS
              for rate in ("tpr", "fpr", "ppv")}
    changes = {f"{place}_change" for place in places if "_none_" not in place}
    added = {place.replace("own", "added") for place in places if place.startswith("own")}
    assert set(found) == added | {f"{name}{end}" for name in places | changes for end in ("", "_interval")}
    assert plain(found)
    for name in study.FORMS:
        for rate in ("tpr", "fpr", "ppv"):
            for less, cause in (("own", "cuts"), ("added", "prevalence")):
                assert found[f"{less}_{name}_{rate}"] == pytest.approx(
                    found[f"{cause}_{name}_{rate}"] - found[f"equal_{name}_{rate}"], abs=1e-12)
        assert found[f"own_{name}_tpr"] < -0.1 > found[f"own_{name}_fpr"]  # women are called at .7, men at .3
    assert found["equal_leace_within_tpr_change"] == pytest.approx(
        found["equal_leace_within_tpr"] - found["equal_none_tpr"], abs=1e-12)
    alike = study.by_group(x, table, {**settings, "cuts": [0.5, 0.5]}, 0)
    assert {alike[f"own_{name}_{rate}"] for name in study.FORMS for rate in ("tpr", "fpr", "ppv")} == {0.0}


# ---------------------------------------------------------------------------------------------- cohorts and encoders
def test_a_cohort_has_the_rows_asked_for_and_half_with_the_finding(images):
    assert images.table["split"].value_counts().to_dict() == {"train": 160, "validation": 80, "test": 160}
    assert images.images.shape[1:] == (1, 32, 32) and images.table["patient_id"].is_unique
    shares = images.table[list(study.FINDINGS)].mean()
    assert shares[study.FINDING] == 0.5 and (shares.drop(study.FINDING) == 0.25).all()
    rare = study.cohort({**SMALL, "n_test": 40, "design": {"findings": {study.FINDING: 0.2}}}, 0)
    assert rare.table[study.FINDING].mean() == pytest.approx(0.2, abs=0.005)


def test_components_learn_from_training_pixels_alone(images):
    few = study.components(images, 8, 0)
    assert few.shape == (len(images), 8) and study.other("pca", images, SMALL, 0).shape == (len(images), 16)
    np.testing.assert_array_equal(few, study.other("pca8", images, SMALL, 0))
    train = (images.table["split"] == "train").to_numpy()
    np.testing.assert_allclose(few[train].mean(axis=0), 0, atol=1e-4)
    assert np.abs(few[~train].mean(axis=0)).max() > 1e-3


def test_other_embeddings_are_what_their_names_say(images):
    np.testing.assert_array_equal(study.other("pixels", images, SMALL, 0), images.images.reshape(len(images), 1024))
    untrained = study.other("untrained", images, SMALL, 0)
    assert untrained.shape == (len(images), 16) and np.isfinite(untrained).all()
    np.testing.assert_array_equal(untrained, study.other("untrained", images, SMALL, 0))
    assert not np.allclose(untrained, study.other("untrained", images, SMALL, 1))
    logits = study.other("supervised", images, SMALL, 0)
    assert logits.shape == (len(images), 1 + len(study.FINDINGS)) and np.isfinite(logits).all()


# ---------------------------------------------------------------------------------------------- (a), (c), (d), (e)
def test_results_of_an_embedding_are_plain_numbers_that_agree(embedded):
    assert plain(embedded)
    assert embedded["pca8_sex"] != embedded["pca_sex"]
    assert embedded["diffusion_time_ratio"] == embedded["diffusion_seconds"] / embedded["variational_seconds"] > 0
    assert embedded["variational_epochs"] == 2 and embedded["diffusion_epochs"] == 1
    errors = [embedded[f"variational_error_at_{k}"] for k in range(1, 5)]
    assert errors[0] == errors[1] != errors[2] == errors[3]  # of two epochs
    assert len({embedded[f"diffusion_error_at_{k}"] for k in range(1, 5)}) == 1
    assert 0 < embedded["variational_error"] < 1
    for source in SMALL["sources"]:
        mean = np.mean([embedded[f"{source}_{finding}"] for finding in study.FINDINGS])
        assert embedded[f"{source}_findings"] == pytest.approx(mean, abs=1e-12)
        assert all(0 <= embedded[f"{source}_{name}"] <= 1 for name in study.CLASSES)


def test_erasure_is_reported_as_changes_from_what_was_there(embedded):
    for p in (50, 90):
        for where in ("same", "apart"):
            assert embedded[f"p{p}_none_{where}_change"] == 0
            assert embedded[f"p{p}_none_{where}_change_interval"] == [0, 0]
            for name in study.FORMS:
                assert embedded[f"p{p}_{name}_{where}_change"] == pytest.approx(
                    embedded[f"p{p}_{name}_{where}"] - embedded[f"p{p}_none_{where}"], abs=1e-12)
        assert embedded[f"p{p}_leace_pooled_linear"] < embedded[f"p{p}_none_linear"] - 0.05
    for name in set(study.FORMS) - {"none"}:
        assert embedded[f"{name}_fall"] == embedded[f"p90_{name}_same_change"] - embedded[f"p50_{name}_same_change"]
    assert "none_fall" not in embedded
    assert embedded["p50_leace_within_same"] == pytest.approx(embedded["p50_leace_pooled_same"], abs=0.03)
    assert embedded["leace_pooled_fall"] < embedded["leace_within_fall"]


def test_every_claim_is_about_a_result_that_its_measure_gives(embedded, shifted, mapped, same_patient, eraser_on_test):
    found = {"embedded": embedded, "shifted": shifted, "map_faults": mapped, "same_patient": same_patient,
             "eraser_on_test": eraser_on_test}
    names = {"embedded": {"^p[678]0_": "p90_", "^(pca128|pixels|untrained|supervised)_": "pca8_"},  # of the tiny runs
             "shifted": {"^[a-z]+_": "pca_"}, "map_faults": {r"_\d+$": "_30"}, "same_patient": {r"_\d+$": "_100"},
             "eraser_on_test": {}}
    claims = load_claims("05")
    assert {claim.measure.split(":")[1] for claim in claims} == set(found)
    for claim in claims:
        measure, quantity = claim.measure.split(":")[1], claim.quantity
        for known, name in names[measure].items():
            quantity = re.sub(known, name, quantity)
        assert quantity in found[measure], claim.id
        if claim.interval == "patients":
            assert f"{quantity}_interval" in found[measure], claim.id


# ---------------------------------------------------------------------------------------------- (b)
def test_a_strong_hidden_shift_is_found_and_gone_once_it_is_told(shifted):
    assert plain(shifted)
    assert shifted["pca_found"] == 1 and shifted["pca_told"] == 0 and shifted["pca_p"] < 0.05
    assert shifted["pca_agreement"] > 0.9 and shifted["pca_read"] > 0.95


def test_the_search_is_not_given_what_it_looks_for_and_nothing_found_is_a_half(monkeypatch):
    given = []

    def nothing(x, labels, seed):
        given.append(labels)
        return HiddenMode("explained", 0.01, (9, 0, 9), 0.9, x[:, 0], labels["sex"].to_numpy() == "F")

    monkeypatch.setattr(study, "hidden_mode", nothing)
    monkeypatch.setattr(study, "clusters", lambda left, fit: SimpleNamespace(count=0))
    found = study.shifted({**SHIFT, "design": {}}, 1)
    assert plain(found) and [*given[0], "hidden"] == list(given[1])
    assert not {"hidden", "hidden_shift", "offset_x_mm", "offset_z_mm"} & set(given[0])
    assert {*study.FINDINGS, "sex", "age", "site", "view", "marker"} < set(given[0])
    assert [found[f"pca_{name}"] for name in ("found", "told", "cluster", "agreement")] == [0, 0, 0, 0.5]


# ---------------------------------------------------------------------------------------------- audits
def test_a_map_loses_distance_and_width_and_a_cloud_has_no_islands_but_on_the_map(mapped):
    assert plain(mapped) and mapped["islands_true"] == 0
    assert mapped["distance_true"] == pytest.approx(4, abs=0.2) and mapped["size_true"] == pytest.approx(4, abs=0.2)
    assert mapped["distance_30"] < 2 and mapped["size_30"] < 2


@pytest.fixture(scope="module")
def splits():
    """Arguments of every reading of an audit of patients on both sides."""
    return []


@pytest.fixture(scope="module")
def same_patient(splits):
    def watched(embeddings, labels, split, patients=None, **rest):
        splits.append((pd.Series(np.asarray(split)), patients))
        return read_out(embeddings, labels, split, patients, **rest)

    read_out = audits.read_out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audits, "read_out", watched)
        return audits.same_patient({"n_patients": 110, "images": 3, "likeness": [0.5, 1.0], "shape": [32, 32],
                                    "latent": 16}, 0)


def test_patients_are_on_both_sides_where_images_are_split_and_nowhere_else(same_patient, splits):
    assert plain(same_patient)
    for k, name in enumerate((50, 100)):
        assert same_patient[f"inflation_{name}"] == same_patient[f"rows_{name}"] - same_patient[f"patients_{name}"]
        (mixed, nobody), (honest, patients) = splits[2 * k:2 * k + 2]
        sides = [split.groupby(patients.to_numpy()).nunique() for split in (mixed, honest)]
        assert nobody is None and (sides[0] > 1).mean() > 0.7 and (sides[1] == 1).all()
        assert mixed.value_counts().to_dict() == honest.value_counts().to_dict()  # as many rows to learn from


@pytest.fixture(scope="module")
def eraser_on_test():
    return audits.eraser_on_test(ERASER, 0)


def test_an_eraser_looks_better_on_the_rows_that_it_saw(eraser_on_test):
    assert plain(eraser_on_test)
    assert eraser_on_test["reported"] < eraser_on_test["others_interval"][0]
    assert eraser_on_test["flattery"] == eraser_on_test["others"] - eraser_on_test["reported"]


def test_the_honest_eraser_saw_neither_the_probes_rows_nor_any_test_row(monkeypatch):
    fitted, probed = [], []
    monkeypatch.setattr(audits, "leace", lambda x, sex, at: fitted.append(at) or (lambda z: z))
    read = audits.read_out
    monkeypatch.setattr(audits, "read_out", lambda x, table, split, **more: probed.append(split) or
                        read(x, table, split, **more))
    audits.eraser_on_test(ERASER, 0)
    (wrong, right), (reported, others, honest) = fitted, probed
    table = study.cohort(ERASER, 0).table
    assert set(wrong) == set(np.flatnonzero(reported == "test"))
    assert not set(wrong) & set(np.flatnonzero(others == "test"))
    assert len(right) == len(wrong) == ERASER["n_probe"] and (table["split"].iloc[right] == "train").all()
    assert not set(right) & set(np.flatnonzero(honest == "train"))
    np.testing.assert_array_equal(honest, others)
