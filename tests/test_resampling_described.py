"""Resampling by clusters and changed copies."""

import numpy as np
import pytest
import torch
from test_resampling import cohort_of, drawn, times_of

from bias_tutorial.mitigation import resampling
from bias_tutorial.mitigation.resampling import Groups
from bias_tutorial.training import shifted


def test_clusters_keep_their_share_and_their_centre():
    # A: two clusters of 8 and 4 rows on a line, at 0 and 100; B: 6 rows, C: 6 rows, so the target is 6
    line = [0, 1, -1, 2, -2, 3, -3, 20, 100, 101, 99, 112]
    features = np.array(line + [50] * 12, dtype=np.float32)[:, None]
    cohort = cohort_of("A" * 12 + "B" * 6 + "C" * 6, x=[0, 1] * 12, images=features)
    groups = Groups.of(cohort, ["race"])
    done = resampling.as_described(groups, clusters=2)
    times = times_of(groups, done)
    assert done.report.groups["after"].tolist() == [6, 6, 6]
    # means 2.5 and 103: the 4 nearest of the one, and the 2 nearest of the other
    assert np.flatnonzero(times[:12]).tolist() == [0, 1, 3, 5, 8, 9]


def test_copies_lie_between_patients_of_their_group_and_nothing_is_stored():
    groups = Groups.of(drawn(1600, 5), ["race"])
    done = resampling.as_described(groups, most_copies=2)
    table = groups.cohort.table
    after, before = done.report.groups["after"], done.report.groups["before"]
    target = int(before.median())
    assert after.tolist() == [min(max(count * 3, min(count, target)), target) for count in before]
    extra = np.bincount(done.rows[done.augmented], minlength=len(groups.cohort))
    assert extra.max() <= 2
    rows, ends = done.rows[done.augmented], done.partner[done.augmented]
    assert (table["race"].to_numpy()[rows] == table["race"].to_numpy()[ends]).all()
    assert (table["patient_id"].to_numpy()[rows] != table["patient_id"].to_numpy()[ends]).all()
    assert (table["split"].to_numpy()[ends] == "train").all()
    places = np.arange(len(done))
    images, own = done.batch(groups.cohort, places), groups.cohort.batch(done.rows)
    assert np.array_equal(images[~done.augmented], own[~done.augmented])
    way, whole = images - own, groups.cohort.batch(done.partner) - own
    assert way == pytest.approx(done.share[:, None] * whole, abs=1e-6)
    share = done.share[done.augmented]
    assert 0 <= share.min() and share.max() < 0.5 and share.mean() == pytest.approx(0.25, abs=0.05)
    assert np.array_equal(done.batch(groups.cohort, places[::-1]), images[::-1])
    assert done.report.duplicates == 0


def test_the_only_patient_of_a_group_is_copied_plainly_and_told():
    cohort = cohort_of("A" * 6 + "B" * 6 + "CC", x=[0, 1] * 7)
    cohort.table.loc[12:, "patient_id"] = "only"
    done = resampling.as_described(Groups.of(cohort, ["race"]))
    assert done.report.groups.loc["C"][["after", "duplicates", "augmented"]].tolist() == [6, 4, 0]
    assert "4 copies are unchanged: no neighbour of another patient in their group" in done.report.notes
    assert not done.augmented.any()


def test_images_are_clustered_by_features_and_copies_are_changed_by_a_function():
    letters = "A" * 9 + "B" * 6 + "C" * 3
    images = np.random.default_rng(0).random((18, 1, 6, 6), dtype=np.float32)
    cohort = cohort_of(letters, x=[0, 1] * 9, images=images)
    groups, features = Groups.of(cohort, ["race"]), images.mean(axis=2)[:, 0]

    def move(images, rng):
        return shifted(torch.from_numpy(images), 2, rng).numpy()

    done = resampling.as_described(groups, features, augment=move)
    assert done.report.groups["augmented"].tolist() == [0, 0, 3]
    first, again, other = (done.batch(cohort, np.arange(len(done)), np.random.default_rng(k)) for k in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    own = cohort.batch(done.rows)
    assert np.array_equal(first[~done.augmented], own[~done.augmented])
    assert not np.array_equal(first[done.augmented], own[done.augmented])
    with pytest.raises(ValueError, match="copies are changed at random here"):
        done.batch(cohort, np.arange(len(done)))
    with pytest.raises(ValueError, match="give augment="):
        resampling.as_described(groups, features)
    with pytest.raises(ValueError, match="give features="):
        resampling.as_described(groups, augment=move)


@pytest.mark.parametrize(("given", "message"), [
    ({"clusters": 0}, "clusters is 0, expected at least 1"), ({"components": 0}, "components is 0"),
    ({"neighbours": 0}, "neighbours is 0"), ({"most_copies": -1}, "most_copies is -1, expected at least 0"),
    ({"features": np.zeros((3, 2))}, r"features of shape \(3, 2\), expected \(400, k\)"),
    ({"features": np.full((400, 2), np.nan)}, "features of row 0 hold NaN or infinite values")])
def test_settings_of_clusters_are_checked(given, message):
    with pytest.raises(ValueError, match=message):
        resampling.as_described(Groups.of(drawn(400), ["race"]), **given)
