"""One table of what embeddings tell: the same probes, patients and splits for each of them, side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, SVR

from ..evaluation import SMALLEST_GROUP, _weighted_metrics
from .probes import COSTS, _reduced, patient_numbers, standardised

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Kind:
    """A kind of probe: settings to choose from, strongest penalty first; how to make it; its kernel if it has one."""

    settings: Sequence[float]
    make: Callable
    kernel: Callable | None = None


CLASS_PROBES = {
    "logistic": _Kind(COSTS, lambda c, seed: LogisticRegression(C=c, class_weight="balanced", max_iter=5000)),
    "linear_svm": _Kind(COSTS, lambda c, seed: SVC(C=c, kernel="precomputed", class_weight="balanced"), linear_kernel),
    "rbf_svm": _Kind((0.1, 1.0, 10.0, 100.0),
                     lambda c, seed: SVC(C=c, kernel="precomputed", class_weight="balanced"), rbf_kernel),
    "mlp": _Kind((100.0, 10.0, 1.0, 0.1), lambda alpha, seed: MLPClassifier(64, solver="lbfgs", alpha=alpha,
                                                                             max_iter=200, random_state=seed)),
}
"""Probes of classes: values weighted alike. C is chosen, or the MLP's alpha (64 hidden units, 200 steps of L-BFGS)."""

NUMBER_PROBES = {
    "ridge": _Kind(tuple(10.0**k for k in range(5, -2, -1)), lambda alpha, seed: Ridge(alpha)),
    "svr": _Kind((0.1, 1.0, 10.0), lambda c, seed: SVR(C=c, kernel="precomputed"), rbf_kernel),
}
"""Probes of numbers, such as age, taught on values in units of their standard deviation: ridge, and SVR with RBF."""


def read_out(embeddings: Mapping[str, np.ndarray], labels: pd.DataFrame, split: Sequence,
             patients: Sequence | None = None, numbers: Sequence[str] = (), probes: Sequence[str] | None = None,
             against: str | None = None, groups: pd.Series | None = None, seed: int = 0,
             draws: int = 1000) -> pd.DataFrame:
    """Read labels out of embeddings, held out by patient.

    Every probe is fitted on the training rows, on features standardised by these; its one setting is the one with the
    best AUC (classes) or least absolute error (numbers) on the validation rows; it is scored once, on the test rows.

    Parameters
    ----------
    embeddings : mapping of str to numpy.ndarray, each of shape (n, d)
        Any width each: an autoencoder's, PCA of equal size, raw pixels, an untrained encoder's, a classifier's.
    labels : pandas.DataFrame, n rows
        One column a label. Rows where it is missing do not count for it.
    split : sequence, shape (n,)
        ``train``, ``validation`` or ``test``; rows where it is missing (None, NaN) are not used.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient.
    numbers : sequence of str
        Labels that are numbers to be estimated; all others are classes.
    probes : sequence of str, optional
        Of :data:`CLASS_PROBES` and :data:`NUMBER_PROBES`; left out, all but ``mlp``.
    against : str, optional
        An embedding that all others are compared with, over the same resampled patients.
    groups : pandas.Series, optional
        An attribute known in all test rows; for labels of two values adds results by its values.
    seed, draws : int
        Of the bootstrap over patients and of the MLP's first weights.

    Returns
    -------
    pandas.DataFrame
        One row per embedding, label, probe and metric: ``embedding``, ``features`` (d), ``label``, ``probe``,
        ``setting`` (chosen), ``metric``, ``group`` ("all", or a value of ``groups``), ``value`` with ``low`` and
        ``high`` of its 95% percentile interval over patients, ``chance``, ``train``, ``n`` (test rows), ``patients``
        (there). With ``against``: ``change`` from that embedding, ``change_low``, ``change_high``.

        Classes: ``balanced_accuracy`` and ``auc`` (of several values the mean of each against the rest). Numbers:
        ``mae``, in the label's unit, and ``r2``; chance for these is to say the training rows' median, and 0. By group
        ``auc``, ``tpr`` and ``fpr``, and ``tpr_gap`` and ``fpr_gap``: less the rate of the first value of ``groups``.

    Raises
    ------
    ValueError
        For an embedding that is not finite or has other rows; a patient in two splits, an unknown split, an empty one;
        a label that is constant, or has a value that one split lacks; an unknown probe or name; fewer than 30 patients
        in the test rows, or in a group there.

    Notes
    -----
    The width of the RBF kernel is fixed: gamma is one over the number of features. Intervals are for these fitted
    probes on other patients; they do not hold the chance of fitting, nor of training the encoder.
    """
    embeddings = {name: _embedding(name, x, len(labels)) for name, x in embeddings.items()}
    known = CLASS_PROBES | NUMBER_PROBES
    probes = [name for name in known if name != "mlp"] if probes is None else list(probes)
    for name, what, choice in (*((p, "probe", known) for p in probes), *((x, "label", labels) for x in numbers),
                               *((x, "embedding", embeddings) for x in [against] if x is not None)):
        if name not in choice:
            raise ValueError(f"there is no {what} '{name}', expected one of {', '.join(map(str, choice))}")
    people = patient_numbers(patients, len(labels))
    sides = split_rows(split, people)
    table = []
    for label in labels:
        task = _Task.of(labels[label], sides, people, label in numbers, groups, seed, draws)
        kinds = NUMBER_PROBES if label in numbers else CLASS_PROBES
        for probe in (p for p in probes if p in kinds):
            found = {name: task.read(x, kinds[probe], seed) for name, x in embeddings.items()}
            for name, (setting, results) in found.items():
                for key, values in results.items():
                    row = {"embedding": name, "features": embeddings[name].shape[1], "label": label, "probe": probe,
                           "setting": setting, "metric": key[0], "group": key[1], **_interval(values),
                           "chance": task.chance(*key), "train": len(task.rows["train"]), **task.size(key[1])}
                    if against is not None:
                        row |= {f"change{end}": value for end, value in zip(
                            ("", "_low", "_high"), _interval(values - found[against][1][key]).values(), strict=True)}
                    table.append(row)
    return pd.DataFrame(table)


def judged(embeddings: Mapping[str, np.ndarray], attribute: pd.Series, disease: pd.Series, split: Sequence,
           decorrelated: Sequence, patients: Sequence | None = None, seed: int = 0, draws: int = 1000) -> pd.DataFrame:
    """Judge erasure: what fresh probes still find of an attribute, and what disease prediction loses.

    Parameters
    ----------
    embeddings : mapping of str to numpy.ndarray, each of shape (n, d)
        The first one is the embedding before erasure; every row of all others after it, by an eraser that was fitted on
        training rows alone. All changes are from the first.
    attribute, disease : pandas.Series, shape (n,)
        What was erased, and a label of two values. Their names stand in the table.
    split : sequence, shape (n,)
        As for :func:`read_out`: rows that the disease reader is fitted on and scored on.
    decorrelated : sequence, shape (n,)
        Splits for the probes of the attribute, over rows in which attribute and disease are not related: elsewhere a
        probe tells the attribute by way of disease, and no eraser that spares disease would pass.
    patients, seed, draws
        As for :func:`read_out`.

    Returns
    -------
    pandas.DataFrame
        As :func:`read_out` with ``against`` the first embedding: the attribute by ``logistic``, ``rbf_svm`` and ``mlp``
        probes; disease by ``logistic``, over all and by the attribute's values with gaps.

    Raises
    ------
    ValueError
        As :func:`read_out`; for a disease without two values.
    """
    if (values := disease.dropna().nunique()) != 2:
        raise ValueError(f"'{disease.name}' has {values} values, expected two to have rates and gaps")
    first = next(iter(embeddings))
    parts = [read_out(embeddings, attribute.to_frame(), decorrelated, patients, probes=("logistic", "rbf_svm", "mlp"),
                      against=first, seed=seed, draws=draws),
             read_out(embeddings, disease.to_frame(), split, patients, probes=("logistic",), against=first,
                      groups=attribute, seed=seed, draws=draws)]
    return pd.concat(parts, ignore_index=True)


def split_rows(split: Sequence, people: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of each split; refuses an unknown name, an empty split, and a patient in two of them."""
    split = pd.Series(np.asarray(split, dtype=object))
    if len(split) != len(people):
        raise ValueError(f"split has {len(split)} rows, expected {len(people)}")
    if unknown := set(split.dropna()) - set(SPLITS):
        raise ValueError(f"split '{unknown.pop()}' is unknown, expected {', '.join(SPLITS)}, or missing for no use")
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    for name, where in rows.items():
        if not len(where):
            raise ValueError(f"split '{name}' has no row")
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        both = np.isin(people[rows[b]], people[rows[a]])
        if both.any():
            raise ValueError(f"{len(np.unique(people[rows[b]][both]))} patients are in splits '{a}' and '{b}', the "
                             f"first is that of row {rows[b][both][0]}: split by patient")
    return rows


def patient_weights(people: np.ndarray, seed: int, draws: int, chunk: int = 100) -> Iterable[np.ndarray]:
    """How often each row counts: once, then in samples of patients drawn with replacement; (draws', rows) at a time."""
    people = np.unique(people, return_inverse=True)[1]
    yield np.ones((1, len(people)))
    rng, count = np.random.default_rng(seed), people.max() + 1
    for start in range(0, draws, chunk):
        yield rng.multinomial(count, np.full(count, 1 / count), min(chunk, draws - start))[:, people].astype(float)


# ---------------------------------------------------------------------- what the table is made of
@dataclass(frozen=True)
class _Task:
    """A label to be read: rows of each split in which it is known, its values there, and groups of the test rows."""

    y: np.ndarray  # classes as numbers from 0, or values in units of the training rows
    rows: dict[str, np.ndarray]
    people: np.ndarray
    classes: int  # 0: a number
    scale: float
    groups: dict[str, np.ndarray]  # places among the test rows
    seed: int
    draws: int

    @classmethod
    def of(cls, label, sides, people, number, groups, seed, draws) -> _Task:
        name, label = label.name, label.reset_index(drop=True)
        rows = {side: where[label.iloc[where].notna().to_numpy()] for side, where in sides.items()}
        used = np.concatenate(list(rows.values()))
        values = np.unique(label.iloc[rows["train"]].to_numpy())
        if len(values) < 2:
            found = repr(values.tolist()[0]) if len(values) else "missing"
            raise ValueError(f"label '{name}' is {found} in all training rows: there is nothing to read")
        if number:
            y, scale = label.to_numpy(dtype=float), float(label.iloc[rows["train"]].astype(float).std(ddof=0))
            y = (y - y[rows["train"]].mean()) / scale
        else:
            for side, where in rows.items():
                if len(odd := set(label.iloc[where].tolist()) ^ set(values.tolist())):
                    raise ValueError(f"label '{name}': value {odd.pop()!r} is in split "
                                     f"'train' or '{side}' and not in both; a number is named in numbers=")
            y, scale = np.full(len(label), -1), 1.0
            y[used] = np.searchsorted(values, label.iloc[used].to_numpy())
        test, places = rows["test"], {}
        if groups is not None and not number and len(values) == 2:
            group = groups.reset_index(drop=True).iloc[test]
            if group.isna().any():
                raise ValueError(f"groups '{groups.name}': {group.isna().sum()} values are missing in the test rows")
            places = {f"{groups.name} = {value}": np.flatnonzero(group == value) for value in np.unique(group)}
        for what, where in ({"test": np.arange(len(test))} | places).items():
            if (count := len(np.unique(people[test[where]]))) < SMALLEST_GROUP:
                raise ValueError(f"label '{name}': {count} patients in {what}, at least {SMALLEST_GROUP} are needed")
            if what in places and len(np.unique(y[test[where]])) < 2:
                raise ValueError(f"label '{name}' is constant in group {what}: it has no rates")
        return cls(y, rows, people, 0 if number else len(values), scale, places, seed, draws)

    def read(self, x: np.ndarray, kind: _Kind, seed: int) -> tuple[float, dict]:
        """The setting that was chosen, and by metric and group its value and those of the resampled patients."""
        train, validation, test = (self.rows[side] for side in SPLITS)
        parts = standardised(x[train], x[validation], x[test])
        if kind.kernel is not None:
            settings = {"gamma": 1 / x.shape[1]} if kind.kernel is rbf_kernel else {}
            parts = [kind.kernel(part, parts[0], **settings) for part in parts]
        else:
            parts = _reduced(*parts)
        best, chosen = -np.inf, None
        for setting in kind.settings:
            with warnings.catch_warnings():  # the MLP's number of steps is a part of what it is
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = kind.make(setting, seed).fit(parts[0], self.y[train])
            score = self._score(self._outputs(model, parts[1]), self.y[validation])
            if score > best:
                best, chosen = score, (setting, model)
        output = self._outputs(chosen[1], parts[2])
        results = [self._metrics(output, weights)
                   for weights in patient_weights(self.people[test], self.seed, self.draws)]
        return float(chosen[0]), {key: np.concatenate([part[key] for part in results]) for key in results[0]}

    def _outputs(self, model, features: np.ndarray) -> np.ndarray:
        """Estimates (n,), or how much speaks for each class (n, classes), all classes alike beforehand."""
        if not self.classes:
            return model.predict(features)
        if isinstance(model, MLPClassifier):
            share = np.bincount(self.y[self.rows["train"]]) / len(self.rows["train"])
            return np.log(np.maximum(model.predict_proba(features), 1e-12) / share)
        odds = model.decision_function(features)
        return odds if odds.ndim == 2 else np.column_stack([-odds, odds])

    def _score(self, output: np.ndarray, y: np.ndarray) -> float:
        if not self.classes:
            return -mean_absolute_error(y, output)
        return float(np.mean([roc_auc_score(y == k, output[:, k]) for k in range(self.classes)]))

    def _metrics(self, output: np.ndarray, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        """Metrics by name and group, one value for each row of weights."""
        y = self.y[self.rows["test"]]
        if not self.classes:
            total = weights.sum(axis=1)
            spread = weights @ y**2 - (weights @ y) ** 2 / total
            return {("mae", "all"): self.scale * (weights @ np.abs(y - output)) / total,
                    ("r2", "all"): 1 - weights @ (y - output) ** 2 / spread}
        decision = output.argmax(axis=1)
        rates = [class_rates(y == k, decision == k, output[:, k], weights) for k in range(self.classes)]
        result = {("balanced_accuracy", "all"): np.mean([rate[:, 1] for rate in rates], axis=0),
                  ("auc", "all"): np.mean([rate[:, 3] for rate in rates], axis=0)}
        first = None
        for name, where in self.groups.items():
            rates = class_rates(y[where] == 1, decision[where] == 1, output[where, 1], weights[:, where])
            result |= {(metric, name): rates[:, k] for k, metric in enumerate(("tpr", "fpr", "auc"), start=1)}
            if first is not None:
                result |= {(f"{m}_gap", name): rates[:, k] - first[:, k] for k, m in enumerate(("tpr", "fpr"), start=1)}
            first = rates if first is None else first
        return result

    def chance(self, metric: str, group: str) -> float:
        """What someone gets who looks at no embedding."""
        if metric == "mae":
            middle = np.median(self.y[self.rows["train"]])
            return self.scale * float(np.abs(self.y[self.rows["test"]] - middle).mean())
        return {"auc": 0.5, "r2": 0.0, "balanced_accuracy": 1 / max(self.classes, 1), "tpr_gap": 0.0,
                "fpr_gap": 0.0}.get(metric, np.nan)

    def size(self, group: str) -> dict[str, int]:
        rows = self.rows["test"][self.groups.get(group, slice(None))]
        return {"n": len(rows), "patients": len(np.unique(self.people[rows]))}


def class_rates(y: np.ndarray, decision: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Accuracy, TPR, FPR and AUC, shape (draws, 4), for labels and decisions 0 and 1 and weights (draws, rows)."""
    order = np.argsort(score, kind="stable")
    rank = np.unique(score[order], return_inverse=True)[1].astype(float)
    return _weighted_metrics(weights[:, order], y[order].astype(int), decision[order].astype(int), rank)


def _interval(values: np.ndarray) -> dict[str, float]:
    """Value of all patients (the first) and the ends of the 95% interval over the resampled ones."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _embedding(name: str, x: np.ndarray, n: int) -> np.ndarray:
    x = np.asarray(x, dtype=float)
    if x.ndim != 2 or len(x) != n or not x.shape[1]:
        raise ValueError(f"embedding '{name}' has shape {x.shape}, expected ({n}, d) with d at least 1")
    if not (finite := np.isfinite(x).all(axis=1)).all():
        raise ValueError(f"embedding '{name}': row {np.argmin(finite)} is NaN or infinite")
    return x
