"""Honest probes: what a linear reader of one block tells about *other* patients, and the controls beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ..evaluation import group_metrics

COSTS = tuple(10.0**k for k in range(-4, 1))
"""Values of C among which a probe chooses: the inverse strength of its L2 penalty on standardised scores."""

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks of the online code, as shares of the rows: Voita and Titov 2020, footnote 4."""


@dataclass(frozen=True)
class Probe:
    """What a probe reads: point values and the ends of their 95% intervals over patients.

    ``auc`` and ``accuracy`` (decision at probability .5) of the test rows; ``n`` rows and ``patients`` there; ``cost``,
    the C chosen inside the training rows; ``log_odds``, shape (test rows,), of the second of the label's values.
    """

    auc: float
    auc_low: float
    auc_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    patients: int
    cost: float
    log_odds: np.ndarray

    def numbers(self) -> dict[str, float]:
        """Everything but ``log_odds``: one row of a table."""
        return {name: value for name, value in asdict(self).items() if name != "log_odds"}


def probe(scores: np.ndarray, label: Sequence, train: np.ndarray, test: np.ndarray, patients: Sequence | None = None,
          seed: int = 0, folds: int = 5, in_sample: bool = False) -> Probe:
    """Fit a linear probe on some patients, score it on others.

    Logistic regression on standardised scores, mean and scale taken from the training rows. Its L2 penalty is chosen
    inside them too: the C of :data:`COSTS` with the least log loss over folds of patients.

    Parameters
    ----------
    scores : numpy.ndarray, shape (n, k)
        Components or features; any width, with more columns than training rows by way of their Gram matrix.
    label : sequence, shape (n,)
        Two values; the second in order is the one whose odds are read. A pandas Series gives errors its name.
    train, test : numpy.ndarray
        Row numbers, or boolean masks of the n rows. To say what is *encoded*, take rows in which the label is not
        related to another that is encoded too (decorrelated data), or :func:`within`.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient.
    seed : int
        Of the folds and of the bootstrap.
    folds : int
        To choose C.
    in_sample : bool
        Score the very rows that it was fitted on: for showing by how much that flatters, never for a result.

    Raises
    ------
    ValueError
        For a constant label (named), one with missing or more than two values, scores that are not finite, fewer
        patients of a value than folds, a row or a patient on both sides, ``in_sample`` with different rows, fewer than
        30 patients to score.
    """
    data = _Data.checked(scores, label, patients, train, test, in_sample)
    log_odds, cost = data.read(folds, seed)
    # one group, all rows: its intervals are Wilson's, or over resampled patients (see there)
    table = group_metrics(data.y[data.test], expit(log_odds), pd.DataFrame(index=range(len(data.test))),
                          patients=data.patients[data.test], seed=seed).loc["all"]
    shown = {name: float(table[name]) for name in Probe.__dataclass_fields__ if name.startswith(("auc", "accuracy"))}
    return Probe(**shown, n=int(table["n"]), patients=int(table["patients"]), cost=cost, log_odds=log_odds)


def within(scores: np.ndarray, label: Sequence, given: Sequence, train: np.ndarray, test: np.ndarray,
           patients: Sequence | None = None, seed: int = 0, folds: int = 5) -> pd.DataFrame:
    """Probe a label within each value of another, as bias within each class of disease: confounding cannot help it.

    Parameters
    ----------
    given : sequence, shape (n,)
        The other label. A probe is fitted and scored within each of its values.
    scores, label, train, test, patients, seed, folds
        As for :func:`probe`.

    Returns
    -------
    pandas.DataFrame
        One row a value of ``given`` and ``mean``, their unweighted mean; columns as :meth:`Probe.numbers`. The ends of
        the mean's intervals combine those of its parts (MOVER; Zou and Donner, Statistics in Medicine 2008), as for
        independent parts: right where a patient has one value of ``given``.

    Raises
    ------
    ValueError
        As :func:`probe`; the message names the value of ``given``.
    """
    train, test = (checked_rows(name, rows, len(scores)) for name, rows in (("train", train), ("test", test)))
    given, what = np.asarray(given), getattr(given, "name", None) or "given"
    if given.shape != (len(scores),) or pd.isna(given[np.concatenate([train, test])]).any():
        raise ValueError(f"'{what}' has shape {given.shape}, expected ({len(scores)},) with a known value in every row")
    table = {}
    for value in np.unique(given[test]):
        try:
            sides = (rows[given[rows] == value] for rows in (train, test))
            found = probe(scores, label, *sides, patients, seed, folds)
        except ValueError as error:
            raise ValueError(f"within {what} = {value}: {error}") from error
        table[value] = found.numbers()
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis(what)
    mean = {"n": table["n"].sum(), "patients": table["patients"].sum()}
    for metric in ("auc", "accuracy"):
        mean[metric] = table[metric].mean()
        for end, sign in (("low", -1), ("high", 1)):
            reach = np.sqrt(((table[f"{metric}_{end}"] - table[metric]) ** 2).sum()) / len(table)
            mean[f"{metric}_{end}"] = mean[metric] + sign * reach
    table.loc["mean"] = pd.Series(mean, dtype=float)
    return table


def random_labels(label: Sequence, patients: Sequence | None = None, seed: int = 0) -> np.ndarray:
    """A control task: the patients' labels dealt out again at random, the same for all images of a patient.

    A patient whose images differ keeps, before the deal, the more frequent value. No block can encode these labels, so
    whatever a probe scores on them it owes to its own freedom or to luck (Hewitt and Liang, EMNLP 2019, section 2).

    Parameters
    ----------
    label, patients, seed
        As for :func:`probe`; ``seed`` of the deal.

    Returns
    -------
    numpy.ndarray, shape (n,)
        Values of ``label``.
    """
    label = np.asarray(label)
    values, y = np.unique(label, return_inverse=True)
    patient = patient_numbers(patients, len(label))
    counts = np.zeros((patient.max() + 1, len(values)), dtype=int)
    np.add.at(counts, (patient, y), 1)
    return values[np.random.default_rng(seed).permutation(counts.argmax(axis=1))[patient]]


@dataclass(frozen=True)
class Selectivity:
    """A probe's score less what it scores on control tasks, and both parts.

    ``auc`` and ``accuracy`` are the differences (label less the mean of the controls); ``probe`` what was read of the
    label; ``control_auc`` and ``control_accuracy``, shape (draws,), of each control task.
    """

    auc: float
    accuracy: float
    probe: Probe
    control_auc: np.ndarray
    control_accuracy: np.ndarray


def selectivity(scores: np.ndarray, label: Sequence, train: np.ndarray, test: np.ndarray,
                patients: Sequence | None = None, seed: int = 0, folds: int = 5, draws: int = 5,
                in_sample: bool = False) -> Selectivity:
    """How much better a probe reads the label than labels that mean nothing.

    Parameters
    ----------
    draws : int
        Control tasks (:func:`random_labels`, seeds ``seed`` to ``seed + draws - 1``), each with its own choice of C.
    scores, label, train, test, patients, seed, folds, in_sample
        As for :func:`probe`.

    Notes
    -----
    Hewitt and Liang, EMNLP 2019, section 2: accuracy on the task less accuracy on the control task. There a control
    label belongs to a word, and the same words return in the test set, so that a probe that memorises scores high on
    the control. Patients do not return: with separate patients controls lie near chance and show its spread, and
    memory shows only with ``in_sample=True``, in the published form of the layer-wise analysis.
    """
    found = probe(scores, label, train, test, patients, seed, folds, in_sample)
    data = _Data.checked(scores, label, patients, train, test, in_sample)
    used = np.union1d(data.train, data.test)
    controls = []
    for draw in range(seed, seed + draws):
        dealt = data.y.copy()
        dealt[used] = random_labels(data.y[used], data.patients[used], draw)
        log_odds, _ = _Data.checked(data.x, dealt, data.patients, train, test, in_sample).read(folds, draw)
        truth = dealt[data.test]
        controls.append((roc_auc_score(truth, log_odds), np.mean((log_odds >= 0) == truth)))
    control_auc, control_accuracy = np.transpose(controls)
    return Selectivity(found.auc - control_auc.mean(), found.accuracy - control_accuracy.mean(), found,
                       control_auc, control_accuracy)


@dataclass(frozen=True)
class CodeLength:
    """Length of the labels' online code in bits.

    ``bits`` of the code; ``uniform``, what it takes without looking at scores (one bit a label); ``prior``, for someone
    who knows how frequent the values are, and no more: less than ``uniform`` where they are not equally frequent.
    ``compression`` is ``uniform / bits``. ``ends`` and ``block_bits``: last row (counted) and bits of each block.
    """

    bits: float
    uniform: float
    prior: float
    compression: float
    ends: np.ndarray
    block_bits: np.ndarray


def code_length(scores: np.ndarray, label: Sequence, patients: Sequence | None = None, seed: int | None = 0,
                fractions: Sequence[float] = FRACTIONS, folds: int = 5) -> CodeLength:
    """Bits that it takes to tell the labels to someone who has the scores: few where they are easy to read from these.

    The online (prequential) code of Voita and Titov, EMNLP 2020, section 2.2.2, equation 4: labels are sent in blocks,
    the first at one bit each; every next one costs ``-log2`` of the probability that a probe gives it, fitted on the
    blocks before. A probe that needs many examples pays for them, so that quality and effort are one number.

    Parameters
    ----------
    scores, label, patients, folds
        As for :func:`probe`; all rows are sent. All images of a patient are in one block.
    seed : int or None
        Of the order of sending and of the folds; ``None``: patients in the order in which they come.
    fractions : sequence of float
        Ends of the blocks as shares of the patients, increasing to 1.

    Raises
    ------
    ValueError
        As for :func:`probe` about scores and label; for fractions that do not increase to 1.

    Notes
    -----
    What the paper leaves open: scores are standardised over all rows (both sides have them); a block is sent at one bit
    each while the blocks before hold one value only; the probe is that of :func:`probe`, its C chosen in the blocks
    before by folds, or the smallest of :data:`COSTS` while a value has fewer patients than folds.
    """
    ends = np.asarray(fractions, dtype=float)
    if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) <= 0).any() or ends[-1] != 1:
        raise ValueError(f"fractions must increase from more than 0 to 1, got {tuple(fractions)}")
    every = np.arange(len(scores))
    data = _Data.checked(scores, label, patients, every, every, in_sample=True)
    x, y = _reduced(*standardised(data.x))[0], data.y
    first = np.unique(data.patients, return_index=True)[1]
    queue = np.argsort(first) if seed is None else np.random.default_rng(seed).permutation(len(first))
    place = np.argsort(queue)[data.patients]
    order, sent = np.argsort(place, kind="stable"), np.sort(place)
    ends = np.unique(np.searchsorted(sent, np.maximum(np.round(ends * len(first)), 1).astype(int)))
    bits = np.ones(len(y))
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        past, block = order[:start], order[start:end]
        if np.ptp(y[past]):
            few = min(_count(y[past] == value, data.patients[past]) for value in (0, 1)) < folds
            cost = COSTS[0] if few else _choose(x[past], y[past], data.patients[past], folds, seed or 0)
            bits[start:end] = log_loss(_fit(x[past], y[past], cost).decision_function(x[block]), y[block]) / np.log(2)
    share = np.bincount(y) / len(y)
    return CodeLength(float(bits.sum()), float(len(y)), float(-len(y) * (share * np.log2(share)).sum()),
                      float(len(y) / bits.sum()), ends, np.add.reduceat(bits, np.r_[0, ends[:-1]]))


# ---------------------------------------------------------------------- what probes are made of
@dataclass(frozen=True)
class _Data:
    """Checked input: scores, label as 0 and 1, patients as numbers, the rows of both sides."""

    x: np.ndarray
    y: np.ndarray
    patients: np.ndarray
    train: np.ndarray
    test: np.ndarray
    name: str

    @classmethod
    def checked(cls, scores, label, patients, train, test, in_sample) -> _Data:
        """The data, or an error that names what is wrong with it."""
        name, x, label = getattr(label, "name", None) or "label", np.asarray(scores, dtype=float), np.asarray(label)
        if x.ndim != 2 or label.shape != (len(x),):
            raise ValueError(f"scores have shape {x.shape} and label '{name}' {label.shape}, expected (n, k) and (n,)")
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise ValueError(f"scores of row {np.argmin(finite)} are NaN or infinite")
        train, test = (checked_rows(side, rows, len(x)) for side, rows in (("train", train), ("test", test)))
        used = np.union1d(train, test)
        y, patient = np.full(len(x), -1), patient_numbers(patients, len(x))
        for where, rows in (("chosen", used), ("training", train), ("test", test)):
            y[rows] = two_values(label[rows], name, where)
        both = np.intersect1d(patient[train], patient[test])
        if in_sample and not np.array_equal(np.unique(train), np.unique(test)):
            raise ValueError("in_sample=True scores the rows that the probe was fitted on: train must equal test")
        if len(both) and not in_sample:
            row = int(test[np.isin(patient[test], both)][0])
            who = f"row {row}" if row in train else f"patient '{np.asarray(patients)[row]}'"
            raise ValueError(f"{len(both)} {'rows' if patients is None else 'patients'} are on both sides, the first "
                             f"is {who}: a probe must be scored on patients that it was not fitted on")
        return cls(x, y, patient, train, test, name)

    def read(self, folds: int, seed: int) -> tuple[np.ndarray, float]:
        """Log odds of the test rows from a probe fitted on the training rows, and the C it chose."""
        train, y, patients = self.train, self.y[self.train], self.patients[self.train]
        for value in (0, 1):
            if (count := _count(y == value, patients)) < folds or folds < 2:
                raise ValueError(f"label '{self.name}': {count} patients with its {('first', 'second')[value]} value "
                                 f"among {len(train)} training images; choosing C by {folds} folds needs {folds} of "
                                 "each value, and at least 2 folds")
        x, others = _reduced(*standardised(self.x[train], self.x[self.test]))
        cost = _choose(x, y, patients, folds, seed)
        return _fit(x, y, cost).decision_function(others), cost


def checked_rows(name: str, rows: np.ndarray, n: int) -> np.ndarray:
    """Row numbers, from numbers or a mask of n rows; refuses what is neither."""
    rows = np.asarray(rows)
    rows = np.flatnonzero(rows) if rows.dtype == bool and rows.shape == (n,) else rows
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n:
        raise ValueError(f"{name} must be row numbers from 0 to {n - 1}, or a mask of {n} rows, with at least one row")
    return rows


def two_values(label: Sequence, name: str, where: str = "given") -> np.ndarray:
    """A label as 0 and 1 (its second value in order); refuses missing values and any number of values but two."""
    label = np.asarray(label)
    if missing := pd.isna(label).sum():
        raise ValueError(f"label '{name}': {missing} values are missing in the {where} rows, expected none")
    values, y = np.unique(label, return_inverse=True)
    if len(values) != 2:
        found = f"is {values.tolist()[0]!r} in all" if len(values) == 1 else f"has {len(values)} values in"
        raise ValueError(f"label '{name}' {found} {len(label)} {where} rows, expected two values")
    return y


def patient_numbers(patients: Sequence | None, n: int) -> np.ndarray:
    """Patients as numbers from 0; without any, every row is another."""
    if patients is None:
        return np.arange(n)
    patients = np.asarray(patients)
    if patients.shape != (n,) or pd.isna(patients).any():
        raise ValueError(f"patients have shape {patients.shape}, expected ({n},) without missing values")
    return np.unique(patients, return_inverse=True)[1]


def _count(rows, patients) -> int:
    return len(np.unique(patients[rows]))


def standardised(x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Columns of mean 0 and standard deviation 1 in the first; constant ones become 0."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale <= 1e-12 * (np.abs(mean) + scale.max())] = np.inf
    return [(part - mean) / scale for part in (x, *others)]


def _reduced(x, *others) -> list[np.ndarray]:
    """The same with at most as many columns as rows of the first: an L2 penalty sees no difference."""
    if x.shape[1] <= len(x):
        return [x, *others]
    values, vectors = np.linalg.eigh(x @ x.T)
    keep = values > 1e-12 * values[-1]
    basis = x.T @ (vectors[:, keep] / np.sqrt(values[keep]))
    return [part @ basis for part in (x, *others)]


def _fit(x, y, cost, start=None) -> LogisticRegression:
    """L2-penalised logistic regression; an earlier fit is carried on from where it stands."""
    model = start or LogisticRegression(max_iter=2000, warm_start=True)
    return model.set_params(C=cost).fit(x, y)


def log_loss(log_odds: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log likelihood of each label 0 or 1, in nats."""
    return np.logaddexp(0, (1 - 2 * y) * log_odds)


def _choose(x, y, patients, folds, seed) -> float:
    """The C with the least log loss over folds of patients, each fold with its share of both values."""
    _, patient = np.unique(patients, return_inverse=True)
    share = np.bincount(patient, y) / np.bincount(patient)
    order = np.lexsort([np.random.default_rng(seed).random(len(share)), share])
    fold = np.empty(len(share), dtype=int)
    fold[order] = np.arange(len(share)) % folds
    losses = np.zeros(len(COSTS))
    for held_out in range(folds):
        out, model = (fold == held_out)[patient], None
        inner, outer = x[~out], x[out]
        for k, cost in enumerate(COSTS):  # from the strongest penalty on: each fit starts at the one before
            model = _fit(inner, y[~out], cost, model)
            losses[k] += log_loss(model.decision_function(outer), y[out]).sum()
    return COSTS[int(losses.argmin())]
