"""Probes on labels whose readability is known: none, a known amount, all; and what they must refuse."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from bias_tutorial.probing import probes
from bias_tutorial.probing.probes import code_length, probe, random_labels, selectivity, within

N = 1200
TRAIN, TEST = np.arange(600), np.arange(600, N)


def data(k=20, gap=1.5, seed=0):
    """Scores whose first column differs by ``gap`` standard deviations between the label's values."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, N)
    scores = rng.normal(size=(N, k))
    scores[:, 0] += gap * label
    return scores * np.geomspace(50, 0.1, k) + 5, label


def test_a_known_signal_is_read_at_its_auc():
    scores, label = data(k=3)
    found = probe(scores, label, TRAIN, TEST)
    assert found.auc == pytest.approx(roc_auc_score(label[TEST], scores[TEST, 0]), abs=0.005)
    assert found.auc == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.04) and found.n == found.patients == 600
    assert found.accuracy == pytest.approx(norm.cdf(0.75), abs=0.04)
    assert found.accuracy == np.mean((found.log_odds >= 0) == label[TEST])
    assert 0.04 < found.auc_high - found.auc_low < 0.1
    assert found.log_odds.shape == (600,) and "log_odds" not in found.numbers()
    masks = [np.isin(np.arange(N), rows) for rows in (TRAIN, TEST)]
    named = probe(pd.DataFrame(scores).to_numpy(), np.array(["A", "B"])[label], *masks)
    assert named.numbers() == found.numbers()


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth, inside = norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(24):
        found = probe(*data(k=1, gap=1, seed=seed), TRAIN[:200], TEST[:200], seed=seed)
        inside += found.auc_low < truth < found.auc_high
    assert inside >= 20  # 23 expected


def test_random_labels_are_near_chance_on_other_patients_and_not_on_the_same():
    scores, label = data(k=400)
    for seed in range(2):
        control = random_labels(label, seed=seed)
        assert abs(probe(scores, control, TRAIN, TEST).auc - 0.5) < 0.08
        assert probe(scores, control, TEST, TEST, in_sample=True).auc > 0.85


def test_the_fault_of_scoring_in_sample_grows_with_width():
    faults = []
    for k in (5, 100, 500):
        scores, label = data(k=k)
        control = random_labels(label)
        faults.append(probe(scores, control, TEST, TEST, in_sample=True).auc
                      - probe(scores, control, TRAIN, TEST).auc)
    assert faults[0] < 0.12 < faults[1] < faults[2] and faults[2] > 0.35


def test_units_of_the_scores_do_not_count():
    scores, label = data()
    one, other = (probe(x, label, TRAIN, TEST) for x in (scores, scores * np.geomspace(1e-6, 1e6, 20) - 3))
    assert one.log_odds == pytest.approx(other.log_odds, abs=1e-4)
    constant = np.column_stack([scores, np.full(N, 0.1)])
    assert probe(constant, label, TRAIN, TEST).log_odds == pytest.approx(one.log_odds, abs=1e-4)


def test_mean_scale_and_c_come_from_the_training_rows_alone():
    scores, label = data(k=100)
    found = probe(scores, label, TRAIN, TEST)
    changed, flipped = scores.copy(), label.copy()
    changed[900:], flipped[900:] = 100 * changed[900:], 1 - flipped[900:]
    other = probe(changed, flipped, TRAIN, TEST)
    assert other.cost == found.cost and np.array_equal(other.log_odds[:300], found.log_odds[:300])
    assert other.auc < found.auc
    assert not np.array_equal(probe(scores, flipped[::-1], TRAIN, TEST).log_odds, found.log_odds)


def test_c_is_the_one_that_cross_validation_prefers():
    for k, gap in ((3, 3.0), (200, 0.7)):
        scores, label = data(k=k, gap=gap)
        x = (scores[TRAIN] - scores[TRAIN].mean(0)) / scores[TRAIN].std(0)
        search = GridSearchCV(LogisticRegression(max_iter=5000), {"C": probes.COSTS}, scoring="neg_log_loss", cv=5)
        assert probe(scores, label, TRAIN, TEST).cost == search.fit(x, label[TRAIN]).best_params_["C"]
    assert probe(*data(k=200, gap=0.7), TRAIN, TEST).cost < probe(*data(k=3, gap=3.0), TRAIN, TEST).cost


def test_more_columns_than_rows_give_the_same_probe():
    scores, label = data(k=400)
    few = np.arange(300)
    found = probe(scores, label, few, TEST)
    x, others = ((scores[rows] - scores[few].mean(0)) / scores[few].std(0) for rows in (few, TEST))
    reference = LogisticRegression(C=found.cost, max_iter=5000, tol=1e-8).fit(x, label[few])
    assert found.log_odds == pytest.approx(reference.decision_function(others), abs=2e-3)


def test_images_of_a_patient_stay_together_when_c_is_chosen():
    rng = np.random.default_rng(0)
    patients = np.arange(N) // 6
    label = rng.integers(0, 2, N // 6)[patients]
    scores = rng.normal(size=(N // 6, 60))[patients] + 0.1 * rng.normal(size=(N, 60))  # six near copies, no signal
    together, apart = (probe(scores, label, TRAIN, TEST, who) for who in (patients, None))
    assert together.cost < apart.cost  # apart, a patient's copies in both folds make memory look like knowledge
    assert together.patients == 100 and apart.patients == together.n == 600
    assert together.auc_high - together.auc_low > 1.5 * (apart.auc_high - apart.auc_low)


def test_within_classes_confounding_does_not_help():
    rng = np.random.default_rng(0)
    disease = rng.integers(0, 2, N)
    bias = np.where(rng.random(N) < 0.9, disease, 1 - disease)
    scores = rng.normal(size=(N, 5))
    scores[:, 0] += 2 * disease  # tells disease, and nothing more of bias
    assert probe(scores, bias, TRAIN, TEST).auc > 0.75
    table = within(scores, bias, pd.Series(disease, name="disease"), TRAIN, TEST)
    assert list(table.index) == [0, 1, "mean"] and table.index.name == "disease"
    assert table.loc["mean", "auc_low"] < 0.5 < table.loc["mean", "auc_high"]
    scores[:, 1] += 2 * bias
    table = within(scores, bias, disease, TRAIN, TEST)
    mean, parts = table.loc["mean"], table.loc[[0, 1]]
    assert abs(mean["auc"] - norm.cdf(np.sqrt(2))) < 0.05 and mean["auc"] == pytest.approx(parts["auc"].mean())
    assert mean["n"] == 600 and parts["n"].tolist() == np.bincount(disease[TEST]).tolist()
    for value in (0, 1):
        rows = disease == value
        alone = probe(scores[rows], bias[rows], np.arange(rows[TRAIN].sum()), np.arange(rows[TRAIN].sum(), rows.sum()))
        assert alone.auc == pytest.approx(table.loc[value, "auc"], abs=1e-6)
    width = [table.loc[v, "accuracy_high"] - table.loc[v, "accuracy_low"] for v in (0, 1, "mean")]
    assert width[2] == pytest.approx(np.hypot(width[0], width[1]) / 2, rel=0.1)


def test_random_labels_keep_patients_and_frequencies():
    patients = np.repeat(np.arange(300), 4)
    label = np.where(np.arange(300) < 90, "yes", "no")[patients]
    dealt = random_labels(label, patients, seed=1)
    assert (dealt.reshape(300, 4) == dealt[::4, None]).all() and (dealt[::4] == "yes").sum() == 90
    assert abs(np.mean(dealt[:360] == "yes") - 0.3) < 0.15  # unrelated to what they were
    assert np.array_equal(dealt, random_labels(label, patients, seed=1))
    assert not np.array_equal(dealt, random_labels(label, patients, seed=2))
    mixed = np.array([1, 1, 0, 0, 0, 1])  # the more frequent value of each patient is dealt
    assert sorted(random_labels(mixed, [0, 0, 0, 1, 1, 1])) == [0, 0, 0, 1, 1, 1]


def test_selectivity_is_the_probe_less_its_controls():
    scores, label = data(k=100)
    found = selectivity(scores, label, TRAIN, TEST, draws=3)
    assert found.probe.numbers() == probe(scores, label, TRAIN, TEST).numbers()
    assert found.control_auc.shape == (3,) and np.abs(found.control_auc - 0.5).max() < 0.08
    assert found.auc == pytest.approx(found.probe.auc - found.control_auc.mean())
    assert found.accuracy == pytest.approx(found.probe.accuracy - found.control_accuracy.mean())
    assert len(set(found.control_auc)) == 3
    memory = selectivity(scores, label, TEST, TEST, draws=2, in_sample=True)
    assert memory.control_auc.min() > 0.65 and memory.auc < found.auc
    nothing = selectivity(scores, random_labels(label, seed=9), TRAIN, TEST, draws=2)
    assert abs(nothing.auc) < 0.08


# ---------------------------------------------------------------------- code length
def test_code_length_by_hand_without_information():
    label = [0, 1, 1, 0, 1, 1, 1, 0]
    found = code_length(np.zeros((8, 2)), label, seed=None, fractions=(0.25, 0.5, 1))
    # rows 1-2 at a bit each; rows 3-4 (1, 0) after one of each: a bit each; rows 5-8 (1, 1, 1, 0) after two of each
    assert found.bits == pytest.approx(8, abs=1e-6) and found.ends.tolist() == [2, 4, 8]
    found = code_length(np.zeros((8, 2)), [0, 1, 1, 1, 1, 1, 1, 0], seed=None, fractions=(0.25, 0.5, 1))
    # rows 5-8 (1, 1, 1, 0) after three times 1 in four
    by_hand = [2, 2, -3 * np.log2(0.75) - np.log2(0.25)]
    assert found.block_bits == pytest.approx(by_hand, abs=1e-3)
    assert found.bits == pytest.approx(sum(by_hand), abs=1e-3) and found.uniform == 8
    assert found.compression == pytest.approx(8 / sum(by_hand), abs=1e-3)
    assert found.prior == pytest.approx(-6 * np.log2(0.75) - 2 * np.log2(0.25))


def test_code_length_by_hand_with_a_score():
    score, label = np.array([-1.0, 1, -1, 1, -1, 1, 1, -1]), np.array([0, 1, 0, 1, 0, 1, 1, 1])
    found = code_length(score[:, None], label, seed=None, fractions=(0.5, 1))
    # four separable rows, score +-1 (its mean 0, its deviation 1 over all rows), C too small a choice to be made:
    # slope b minimises 4 C log(1 + exp(-b)) + b**2 / 2, so b = 4 C / (1 + exp(b)), no intercept by symmetry
    slope = 0.0
    for _ in range(100):
        slope = 4 * probes.COSTS[0] / (1 + np.exp(slope))
    bits = 3 * np.log2(1 + np.exp(-slope)) + np.log2(1 + np.exp(slope))
    assert found.bits == pytest.approx(4 + bits, abs=1e-7) and abs(found.bits - 8) > 1e-5


def test_code_lengths_order_as_they_should():
    scores, label = data(k=50, gap=3)
    weak, _ = data(k=50, gap=1)
    bits = [code_length(x, y).bits for x, y in ((scores, label), (weak, label), (scores, random_labels(label)))]
    assert bits[0] < 0.6 * bits[1] and bits[1] < 0.95 * bits[2]
    assert bits[2] == pytest.approx(N, rel=0.02)
    # no code can beat the information there is: the log loss of who knows the two distributions
    log_odds = 3 * ((scores[:, 0] - 5) / 50 - 1.5)
    assert bits[0] > probes.log_loss(log_odds, label).sum() / np.log(2)
    wide, _ = data(k=1000, gap=3)
    assert bits[0] < code_length(wide, label).bits < N  # the same signal among more noise takes more examples


def test_a_patient_is_sent_in_one_block_and_order_is_seeded():
    scores, label = data(k=5)
    patients = np.random.default_rng(0).permutation(np.arange(N) // 7)
    found = code_length(scores, label, patients, fractions=(0.1, 0.5, 1))
    sizes = np.bincount(patients)
    queue = np.random.default_rng(0).permutation(len(sizes))
    assert found.ends.tolist() == [sizes[queue[:end]].sum() for end in (17, 86, 172)]
    assert found.bits == code_length(scores, label, patients, fractions=(0.1, 0.5, 1)).bits
    assert found.bits != code_length(scores, label, patients, seed=1, fractions=(0.1, 0.5, 1)).bits
    unequal = np.r_[np.zeros(30, int), label[30:]]
    assert code_length(scores, unequal, seed=None, fractions=(0.01, 0.025, 1)).block_bits[:2].tolist() == [12, 18]


# ---------------------------------------------------------------------- bad input
FEW = np.r_[np.arange(4), np.zeros(N - 4, int)]


@pytest.mark.parametrize(("change", "message"), [
    ({"label": pd.Series(np.ones(N, int), name="stretch")}, "label 'stretch' is 1 in all 1200 chosen rows"),
    ({"label": np.r_[np.ones(600, int), np.arange(600) % 2]}, "label 'label' is 1 in all 600 training rows"),
    ({"label": np.r_[np.arange(600) % 2, np.zeros(600, int)]}, "label 'label' is 0 in all 600 test rows"),
    ({"label": np.arange(N) % 3}, "has 3 values in 1200 chosen rows, expected two"),
    ({"label": np.r_[np.arange(600) % 2, 2 * (np.arange(600) % 2)]}, "has 3 values in 1200 chosen rows"),
    ({"label": np.r_[np.nan, np.arange(N - 1) % 2]}, "1 values are missing in the chosen rows"),
    ({"label": np.ones(5)}, r"label 'label' \(5,\), expected"),
    ({"label": np.r_[np.ones(4, int), np.zeros(596, int), np.arange(600) % 2]},
     "4 patients with its second value among 600 training images; choosing C by 5 folds needs 5"),
    ({"label": np.arange(N) % 2, "train": np.arange(3)}, "2 patients with its first value among 3 training images"),
    ({"patients": np.r_[np.arange(600) % 8, 600 + np.arange(600)]}, "4 patients with its first"),
    ({"folds": 1}, "at least 2 folds"),
    ({"scores": np.full((N, 2), np.nan)}, "scores of row 0 are NaN or infinite"),
    ({"scores": np.zeros(N)}, r"scores have shape \(1200,\)"),
    ({"test": np.arange(599, N)}, "1 rows are on both sides, the first is row 599"),
    ({"test": TRAIN}, "600 rows are on both sides"),
    ({"patients": np.array([f"P{k}" for k in np.arange(N) % 700])}, "500 patients .* sides, .* 'P0'"),
    ({"patients": np.arange(3)}, r"patients have shape \(3,\)"),
    ({"in_sample": True}, "train must equal test"),
    ({"train": np.array([-1, 3])}, "train must be row numbers from 0 to 1199"),
    ({"test": np.array([N])}, "test must be row numbers"),
    ({"test": np.zeros(N, bool)}, "with at least one row"),
    ({"test": np.arange(600, 620)}, "20 patients, at least 30"),
])
def test_bad_input_is_refused(change, message):
    scores, label = data(k=2)
    label = np.arange(N) % 2 if "patients" in change else label
    with pytest.raises(ValueError, match=message):
        probe(**{"scores": scores, "label": label, "train": TRAIN, "test": TEST} | change)


def test_other_bad_input_is_refused():
    scores, label = data(k=2)
    same = pd.Series(label, name="disease")
    with pytest.raises(ValueError, match="within disease = 0: label 'bias' is 0 in all"):
        within(scores, pd.Series(label, name="bias"), same, TRAIN, TEST)
    with pytest.raises(ValueError, match="'given' has shape"):
        within(scores, label, np.ones(3), TRAIN, TEST)
    with pytest.raises(ValueError, match="label 'label' is 1 in all 1200 chosen"):
        code_length(scores, np.ones(N, int))
    for fractions in ((0.5, 0.5, 1), (0.1, 0.9), (0, 1), ()):
        with pytest.raises(ValueError, match="fractions must increase"):
            code_length(scores, label, fractions=fractions)
