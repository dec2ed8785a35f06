"""Measures behind chapter 4 that need no tumours: confounded brains, two numbers, coloured digits.

See :mod:`.chapter_04` for ``methods`` in the settings, and for what a seed is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import answer_key, simulate
from ..cohort import Cohort, Schema
from ..mitigation import METHODS, ByGroup
from ..scenario import RECEIVE_FIELD, BiasAttribute, Effect, Scenario, preset
from ..simulate.digits import BINS, digits, recolour
from ..training import Recipe, predict
from .chapter_01 import TEST, TRAINING, cohort_seed
from .chapter_02 import judge, training_cohort, with_intervals
from .chapter_04 import LEARN, adversary_accuracy, arms, fresh_probe


# ---------------------------------------------------------------------- (c), (e), (f), (g): confounded brains
def one_bias(name: str, p: float) -> Scenario:
    """A preset with one attribute, or ``receive_field``: a smooth intensity field, bright on one side of the head."""
    if name != RECEIVE_FIELD:
        return preset(name, p)
    return Scenario(name, (BiasAttribute("field", RECEIVE_FIELD, (0.5, 0.5), effect=Effect(0.3)),)).at(p)


def confounded(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Methods on brains whose bias agrees with the disease with probability p, judged on twins.

    Settings: ``preset``, see :func:`one_bias`; ``p``; ``n_train``, ``n_test``, ``n_probe``, ``shape``, ``recipe``;
    ``methods``, the first of them the one others are compared with; ``block`` that fresh probes read. Results are
    called ``<arm>_<quantity>``: those of :func:`bias_tutorial.studies.chapter_02.judge`; ``gap``, the share called
    sick with the mark less that without; ``gap_size``, without its sign; ``distance``, the mean over the four groups
    of how far accuracy is from what we want; ``bias_auc``, ``bias_accuracy`` and ``disease_auc`` of fresh probes;
    ``adversary_accuracy`` of the predictor that was trained along, on the very images the fresh probe is scored on,
    and ``probe_beyond``, the fresh probe's accuracy less that.
    """
    design = one_bias(settings["preset"], settings["p"])
    (name_of_bias,), shape = design.attribute_names, tuple(settings["shape"])
    found = arms(training_cohort(design, settings["n_train"], seed, shape), "disease", (name_of_bias,), settings, seed)
    test = simulate.brain(design.decorrelated(), settings["n_test"], cohort_seed(seed, TEST), shape)
    pair = [simulate.counterfactual(test, **{name_of_bias: value}) for value in (0, 1)]
    some = test.subset(range(settings["n_probe"]))
    label, disease, y = some.table[name_of_bias], some.table["disease"], test.table["disease"].to_numpy()
    wanted = answer_key.solve(design).wanted.same.accuracy
    out: dict[str, Any] = {}
    first: dict[str, np.ndarray] = {}
    for name, arm in found.items():
        off, on = (predict(arm.network, cohort)[:, 1] for cohort in pair)
        sick = {"off": off > 0.5, "on": on > 0.5}
        result = judge(y, off, on, settings["p"], seed=seed)
        right = {side: (said == y).astype(float) for side, said in sick.items()}
        aligned, conflicting = (np.where(y == 1, right[a], right[b]) for a, b in (("on", "off"), ("off", "on")))
        values = {"gap": sick["on"].astype(float) - sick["off"], "decorrelated": (aligned + conflicting) / 2,
                  "same": settings["p"] * aligned + (1 - settings["p"]) * conflicting, "conflicting": conflicting}
        first = first or values
        changes = {f"{what}_change": values[what] - first[what] for what in values if values is not first}
        result |= with_intervals({"gap": values["gap"], **changes}, seed)
        cells = [right[side][y == k].mean() for side in right for k in (0, 1)]
        result |= {"gap_size": abs(result["gap"]), "distance": float(np.abs(np.array(cells) - wanted).mean()),
                   "worst": float(min(cells))}
        if not isinstance(arm.network, ByGroup):  # group models have no features in common
            read = {what: fresh_probe(arm.network, settings["block"], some, values, seed)
                    for what, values in (("bias", label), ("disease", disease))}
            result |= {f"{what}_{k}": v for what, numbers in read.items() for k, v in numbers.items()}
            if "heads" in arm.step.modules:
                result["adversary_accuracy"] = adversary_accuracy(arm, some, "disease", label)
                result["probe_beyond"] = result["bias_accuracy"] - result["adversary_accuracy"]
        out |= {f"{name}_{k}": v for k, v in result.items()}
    key = answer_key.solve(design).rewarded
    return out | {"key_gap": float(key.decorrelated.gaps.iloc[0]["tpr_gap"]),
                  "key_decorrelated": float(key.decorrelated.accuracy), "key_same": float(key.same.accuracy)}


# ---------------------------------------------------------------------- (c): where the adversary can win
def linear(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Methods on two numbers, severity and mark, for a network with a single feature between.

    A linear predictor sees a difference in means only: within a class that is all there is, over both classes it is
    not, so the marginal reversal can reach less than the key. Settings:
    ``p_values``; ``n_train``, ``n_test``; ``methods``; ``recipe``. Results are called ``p<100 p>_<arm>_<quantity>``,
    those of :func:`bias_tutorial.studies.chapter_02.judge`, and ``gap`` as in :func:`confounded`;
    ``p<100 p>_key_...`` those of the best reader under marginal independence.
    """
    out: dict[str, Any] = {}
    exam = _two_numbers(preset("far"), settings["n_test"], cohort_seed(seed, TEST))
    y = exam.table["disease"].to_numpy()
    for p in settings["p_values"]:
        cohort = _two_numbers(replace(preset("far", p), split_shares=LEARN), settings["n_train"] * 3 // 2,
                              cohort_seed(seed, TRAINING))
        for name, how in settings["methods"].items():
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                network = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
            own = {key: value for key, value in how.items() if key != "method"}
            METHODS[how["method"]](**own).fit(network, cohort, "disease", "morphology", Recipe(**settings["recipe"]),
                                              seed, progress=False)
            off, on = (predict(network, replace(exam, images=np.column_stack([exam.images[:, 0], np.full(len(y), k)])
                                                .astype(np.float32)))[:, 1] for k in (0, 1))
            result = judge(y, off, on, p, seed=seed)
            result |= with_intervals({"gap": (on > 0.5).astype(float) - (off > 0.5)}, seed)
            out |= {f"p{round(100 * p)}_{name}_{k}": v for k, v in result.items()}
        key = answer_key.marginal_independence(p).iloc[0]
        out |= {f"p{round(100 * p)}_key_{k}": float(key[k]) for k in ("tpr_gap", "fpr_gap", "decorrelated")}
    return out


def _two_numbers(design: Scenario, n: int, seed: int) -> Cohort:
    """A cohort whose images are two numbers: severity, and 1 for the mark or 0."""
    table = design.draw(n, seed)
    numbers = table[["severity", "morphology"]].to_numpy(np.float32)
    return Cohort(numbers, table, Schema({"disease": (0, 1)}, {"morphology": (0, 1)}, ("severity",)))


# ---------------------------------------------------------------------- (d): coloured digits
def coloured(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Coloured digits at several variances of colour: accuracy on digits of random colour.

    The bias labels are the drawn colour itself, each channel in 8 bins, for the whole image (the published heads read
    them pixel by pixel). Settings: ``variances``, ``methods``, ``recolourings`` of every test digit, ``recipe``.
    Results are called ``v<1000 variance>_<arm>_accuracy`` and, against the first arm, ``..._change``; ``rise_<arm>``
    is accuracy at the largest variance less that at the smallest, ``change_<arm>`` the mean change over variances.
    """
    out: dict[str, Any] = {}
    right: dict[tuple[float, str], np.ndarray] = {}
    for variance in settings["variances"]:
        cohort = digits(variance, cohort_seed(seed, TRAINING), shares=(0.6, 0.1, 0.3))
        bins = {f"{c}_bin": (cohort.table[c] * BINS).astype(int).clip(upper=BINS - 1) for c in cohort.schema.latents}
        cohort = replace(cohort, table=cohort.table.assign(**bins))
        found = arms(cohort, "digit", tuple(bins), settings, seed)
        test = cohort.split("test")
        tests = [recolour(test, cohort_seed(seed, TEST) + 1000 * k) for k in range(settings["recolourings"])]
        for name, arm in found.items():
            right[variance, name] = np.mean([predict(arm.network, one).argmax(1) == one.table["digit"]
                                             for one in tests], axis=0)
        first = right[variance, next(iter(found))]
        for name in found:
            values = {f"{name}_accuracy": right[variance, name], f"{name}_change": right[variance, name] - first}
            out |= {f"v{round(1000 * variance)}_{k}": v for k, v in with_intervals(values, seed).items()}
    variances, first = settings["variances"], next(iter(settings["methods"]))
    over = {name: np.array([right[v, name] for v in sorted(variances)]) for name in settings["methods"]}
    values = {f"rise_{name}": one[-1] - one[0] for name, one in over.items()}
    values |= {f"change_{name}": (one - over[first]).mean(axis=0) for name, one in over.items()}
    return out | with_intervals(values, seed)
