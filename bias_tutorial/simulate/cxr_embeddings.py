"""Simulated chest X-ray embeddings: 14 findings, patients with several studies, and every cause of a gap by itself.

What a frozen foundation model makes of a radiograph is a vector of a thousand numbers. Here such vectors are drawn with
known truth: which findings are present and how severe, who the patient is, how well the group's findings are shown, and
how often a report misses one. Every number of this file (shares, prevalences, strengths) is **simulated**, no
statistic of any real group, so the groups have no real names.

The form follows BiasCXR (Ahmadnejad Roudsari 2025, github.com/aahmadnejad/BiasCXR): the findings and their order, the
age groups, 1,376 features as CXR Foundation gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri

from .. import __version__
from ..cohort import Cohort, Schema, split_by_patient
from ..scenario import streams, whole

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
            "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
            "Pneumothorax", "Support Devices")
NO_FINDING, DEVICES = "No Finding", "Support Devices"
DRAWN = tuple(f for f in FINDINGS if f != NO_FINDING)
PREVALENCE = dict(zip(DRAWN, (0.20, 0.18, 0.05, 0.12, 0.04, 0.03, 0.03, 0.22, 0.22, 0.012, 0.08, 0.04, 0.28),
                      strict=True))
ATTRIBUTES = {"sex": ("F", "M"), "race": ("A", "B", "C", "D", "E"),
              "age_group": ("0-20", "20-40", "40-60", "60-80", "80+"), "insurance": ("plan 1", "plan 2", "plan 3")}
AGE_EDGES = (0, 20, 40, 60, 80, 95)  # years; a birthday belongs to the older group
CAUSES = {
    "representation": {"shares": {"sex": {"F": 0.45, "M": 0.55},
                                  "race": {"A": 0.60, "B": 0.18, "C": 0.12, "D": 0.07, "E": 0.03},
                                  "age_group": {"0-20": 0.02, "20-40": 0.13, "40-60": 0.30, "60-80": 0.40, "80+": 0.15},
                                  "insurance": {"plan 1": 0.60, "plan 2": 0.28, "plan 3": 0.12}},
                       "appearance": 75.0},
    "prevalence": {"odds": {"race": {"B": 1.25, "C": 0.8, "D": 0.65, "E": 0.5}}},
    "label_noise": {"missed": {"race": {"D": 0.2, "E": 0.3}, "insurance": {"plan 3": 0.2}}},
    "feature_quality": {"blur": {"race": {"D": 0.5, "E": 1.0}, "insurance": {"plan 3": 0.5}}},
}
"""What each cause of a gap sets when :meth:`CxrDesign.with_causes` switches it on."""

_PARTS = 16  # of a patient's own look
_BLOCK = 256  # rows that are drawn together: always whole, so that a row is the same in every chunk
_RACES = len(ATTRIBUTES["race"])
_DIRECTIONS = len(FINDINGS) * (1 + _RACES) + sum(map(len, ATTRIBUTES.values())) + _PARTS

ByGroup = Mapping[str, Mapping[str, float]]
"""Attribute, then value, then a number; what is not named has no effect."""


def _equal_shares() -> dict[str, dict[str, float]]:
    return {name: dict.fromkeys(values, 1 / len(values)) for name, values in ATTRIBUTES.items()}


@dataclass(frozen=True)
class CxrDesign:
    """A simulated chest X-ray study. As it stands all groups are equal in everything: no cause of a gap.

    Effects of several attributes add up at their intersection: odds multiply, chances of a right label multiply,
    variances of the blur add.

    Parameters
    ----------
    shares : mapping
        *Representation*: share of patients for every value of every attribute, summing to 1 in each. Attributes are
        independent of each other.
    appearance : float
        Degrees in [0, 90] by which a finding's look in a race group is turned away from the look that all groups share.
        Unequal shares do no harm while all look alike (0), and unequal looks cost all groups the same while shares are
        equal: it takes both for a small group to be learned less well.
    odds : mapping
        *Prevalence*: what the odds of every finding are multiplied by in a group, above 0.
    missed, invented : mapping
        *Label noise*: P(label 0 | present) and P(label 1 | absent) by group, for each drawn finding by itself; their
        sum stays below 1.
    blur : mapping
        *Feature quality*: standard deviation of noise on the severities before they enter the embedding, at least 0.
    prevalence : mapping
        P(finding) before the odds, each in (0, 1), for all findings but "No Finding".
    finding_correlation : float
        Correlation of any two findings' propensities (standard normals), in [0, 1).
    patient_correlation : float
        Correlation of two studies of a patient, in propensities and in severity given the class, in [0, 1).
    studies : float
        Mean number of studies a patient (geometric), at least 1.
    visible : float
        Distance of an attribute's values from the origin, in standard deviations of the features' noise; 0: invisible.
    read_out : float
        Standard deviation of the noise with which a severity can be read out of an embedding at best, above 0.
    splits : tuple of float
        Shares of patients in train, validation and test.

    Raises
    ------
    ValueError
        For a number outside its range or an unknown attribute, value or finding, by name.
    """

    shares: ByGroup = field(default_factory=_equal_shares)
    appearance: float = 0.0
    odds: ByGroup = field(default_factory=dict)
    missed: ByGroup = field(default_factory=dict)
    invented: ByGroup = field(default_factory=dict)
    blur: ByGroup = field(default_factory=dict)
    prevalence: Mapping[str, float] = field(default_factory=PREVALENCE.copy)
    finding_correlation: float = 0.3
    patient_correlation: float = 0.5
    studies: float = 2.5
    visible: float = 3.0
    read_out: float = 0.3
    splits: tuple[float, float, float] = (0.6, 0.15, 0.25)

    def __post_init__(self):
        object.__setattr__(self, "splits", tuple(self.splits))
        if set(self.prevalence) != set(DRAWN):
            wrong = sorted(set(self.prevalence) ^ set(DRAWN))[0]
            raise ValueError(f"prevalence needs the 13 findings other than '{NO_FINDING}', which follows from them; "
                             f"'{wrong}' is missing or too much")
        numbers = {f"prevalence of {f}": (p, 0 < p < 1, "between 0 and 1") for f, p in self.prevalence.items()}
        for name in ("finding_correlation", "patient_correlation"):
            numbers[name] = (getattr(self, name), 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        numbers |= {"appearance": (self.appearance, 0 <= self.appearance <= 90, "in [0, 90] degrees"),
                    "studies": (self.studies, 1 <= self.studies < np.inf, "at least 1"),
                    "visible": (self.visible, 0 <= self.visible < np.inf, "at least 0"),
                    "read_out": (self.read_out, 0 < self.read_out < np.inf, "above 0")}
        ranges = {"shares": ("at least 0", lambda v: v >= 0), "odds": ("above 0", lambda v: 0 < v < np.inf),
                  "missed": ("in [0, 1)", lambda v: 0 <= v < 1), "invented": ("in [0, 1)", lambda v: 0 <= v < 1),
                  "blur": ("at least 0", lambda v: 0 <= v < np.inf)}
        for what, (expected, fits) in ranges.items():
            for attribute, by_value in getattr(self, what).items():
                for value, number in by_value.items():
                    if value not in ATTRIBUTES.get(attribute, ()):
                        raise ValueError(f"{what}: there is no {attribute} = '{value}', expected one of {ATTRIBUTES}")
                    numbers[f"{what} of {attribute} = {value}"] = (number, fits(number), expected)
        for name, (number, fits, expected) in numbers.items():
            if not fits:
                raise ValueError(f"{name} must be {expected}, got {number}")
        for attribute in ATTRIBUTES:
            if not abs(sum(self.shares.get(attribute, {}).values()) - 1) < 1e-6:
                raise ValueError(f"shares of {attribute} must sum to 1, got {dict(self.shares.get(attribute, {}))}")
        noise = self.strata()
        worst = (noise["missed"] + noise["invented"]).idxmax()
        if not noise.loc[worst, ["missed", "invented"]].sum() < 1:
            raise ValueError(f"missed and invented labels must sum to less than 1, or labels tell the opposite: {worst}"
                             f" has {noise.loc[worst, 'missed']:g} and {noise.loc[worst, 'invented']:g}")

    @classmethod
    def with_causes(cls, *causes: str, **settings) -> CxrDesign:
        """A design with the named causes switched on at the strengths of ``CAUSES``, and other settings as given.

        Parameters
        ----------
        *causes : {'representation', 'prevalence', 'label_noise', 'feature_quality'}
            Any number of them; none gives the design without a cause.
        **settings
            Parameters of the design; they win over those of a cause.
        """
        for cause in causes:
            if cause not in CAUSES:
                raise ValueError(f"unknown cause '{cause}', expected one of {', '.join(CAUSES)}")
            settings = CAUSES[cause] | settings
        return cls(**settings)

    def strata(self) -> pd.DataFrame:
        """What the design says of every combination of attribute values.

        Returns
        -------
        pandas.DataFrame
            Index: the attributes. Columns ``share`` of patients, ``odds`` factor, ``missed``, ``invented``, ``blur``.
        """
        index = pd.MultiIndex.from_product(ATTRIBUTES.values(), names=ATTRIBUTES)

        def numbers(by_group: ByGroup, absent: float) -> np.ndarray:
            """One row an attribute, one column a combination."""
            return np.array([[by_group.get(name, {}).get(value, absent) for value in index.get_level_values(name)]
                             for name in ATTRIBUTES], dtype=float)

        return pd.DataFrame({"share": numbers(self.shares, 0).prod(axis=0), "odds": numbers(self.odds, 1).prod(axis=0),
                             "missed": 1 - (1 - numbers(self.missed, 0)).prod(axis=0),
                             "invented": 1 - (1 - numbers(self.invented, 0)).prod(axis=0),
                             "blur": np.linalg.norm(numbers(self.blur, 0), axis=0)}, index=index)

    def truth(self, finding: str) -> pd.DataFrame:
        """What the answer key of a drawn finding needs, for every combination of attribute values.

        Returns
        -------
        pandas.DataFrame
            Columns ``share``, ``prevalence``, ``missed``, ``invented``, and ``separation``, the distance of the class
            means of the severity as it can be read out of the embedding, in its standard deviations. A row fits
            :class:`bias_tutorial.answer_key.Group`.
        """
        if finding not in DRAWN:
            raise ValueError(f"the design draws no finding '{finding}', expected one of {', '.join(DRAWN)}")
        strata = self.strata()
        prevalence = expit(logit(self.prevalence[finding]) + np.log(strata["odds"]))
        separation = 2 / np.sqrt(1 + strata["blur"] ** 2 + self.read_out**2)
        return strata[["share", "missed", "invented"]].assign(prevalence=prevalence, separation=separation)


def cxr_embeddings(design: CxrDesign, n_studies: int, seed: int, features: int = 1376) -> Cohort:
    """Draw a cohort of simulated radiograph embeddings.

    Parameters
    ----------
    design : CxrDesign
        Who is in the data and which causes of a gap act.
    n_studies : int
        Rows, one study each, at least 100.
    seed : int
        The one seed; every purpose has its own stream, so a cause that is switched on changes nothing else.
    features : int
        Width of an embedding, at least 115.

    Returns
    -------
    Cohort
        Images ``(n, features)``, float32. Targets: the 14 ``FINDINGS`` as labelled (0 or 1). Attributes: those of
        ``ATTRIBUTES``. Latents: ``age`` (years), and of each finding ``<finding> present`` (the truth, 0 or 1),
        ``<finding> severity`` and ``<finding> seen`` (severity with the group's blur).

    Raises
    ------
    ValueError
        For a number below its least value.

    Notes
    -----
    Severity is N(+1, 1) where the finding is present and N(-1, 1) where not, so the key holds for a reader of that
    severity. Findings go together (``finding_correlation``, and "No Finding" follows from the others), so a reader of
    the whole embedding can do a little better than the key of one finding. "No Finding" is 1 where none of the 12
    pathological findings is; support devices do not count (CheXpert: Irvin et al., AAAI 2019). In the labels it follows
    from the labels, so a report that misses all findings calls the study normal.

    An embedding is a sum of orthogonal directions, the same in every cohort, plus independent noise of standard
    deviation 1 in each feature: projected on a finding's direction it gives the seen severity with noise ``read_out``,
    whatever the number of features.
    A row depends on the seed and its own number alone (:func:`render` makes any piece); only the split looks at all.
    """
    meta = {"simulator": "cxr_embeddings", "version": __version__, "design": asdict(design),
            "n_studies": whole(n_studies, "n_studies", least=100), "seed": whole(seed, "seed", least=0),
            "features": whole(features, "features", least=_DIRECTIONS)}
    table = drawn_table(meta)
    latents = ("age", *(f"{f} {what}" for what in ("present", "severity", "seen") for f in FINDINGS))
    schema = Schema(dict.fromkeys(FINDINGS, (0, 1)), dict(ATTRIBUTES), latents)
    return Cohort(render(meta, table), table, schema, meta=meta)


def drawn_table(meta: dict[str, Any]) -> pd.DataFrame:
    """Table of a cohort from its ``meta``; up to the split, fewer studies give the first rows of more."""
    design, n, stream = CxrDesign(**meta["design"]), meta["n_studies"], streams(meta["seed"])
    patient = np.repeat(np.arange(n), stream("studies").geometric(1 / design.studies, n))[:n]
    people = patient[-1] + 1
    codes = {name: np.searchsorted(np.cumsum([design.shares[name].get(v, 0.0) for v in values])[:-1],
                                   stream("group", k).random(people), side="right")
             for k, (name, values) in enumerate(ATTRIBUTES.items())}
    youngest, oldest = (np.asarray(AGE_EDGES)[codes["age_group"] + k] for k in (0, 1))
    age = youngest + (oldest - youngest) * stream("age").random(people)
    strata = design.strata()
    stratum = np.ravel_multi_index(tuple(codes.values()), tuple(map(len, ATTRIBUTES.values())))[patient]

    def shared(purpose: str, width: int) -> np.ndarray:
        """Standard normals, correlated within patient, shape (n, width)."""
        icc, own = design.patient_correlation, stream(purpose, 1).standard_normal((n, width))
        return np.sqrt(icc) * stream(purpose, 0).standard_normal((people, width))[patient] + np.sqrt(1 - icc) * own

    common = design.finding_correlation
    propensity = np.sqrt(common) * shared("factor", 1) + np.sqrt(1 - common) * shared("finding", len(DRAWN))
    present = propensity < ndtri(np.column_stack([design.truth(f)["prevalence"] for f in DRAWN]))[stratum]
    chance = stream("label").random(present.shape)
    missed, invented = (strata[what].to_numpy()[stratum][:, None] for what in ("missed", "invented"))
    label = np.where(present, chance >= missed, chance < invented)
    present, label = _with_no_finding(present), _with_no_finding(label)
    severity = np.where(present, 1.0, -1.0) + shared("severity", len(FINDINGS))
    seen = severity + strata["blur"].to_numpy()[stratum][:, None] * stream("blur").standard_normal(severity.shape)

    columns = {"image_id": [f"{k + 1:07d}" for k in range(n)],
               "patient_id": np.array([f"P{k + 1:07d}" for k in range(people)])[patient]}
    columns |= dict(zip(FINDINGS, label.T.astype(np.int8), strict=True))
    columns |= {name: np.array(ATTRIBUTES[name])[code][patient] for name, code in codes.items()}
    columns["age"] = age[patient].astype(np.float32)
    for what, values in (("present", present.astype(np.int8)), ("severity", severity.astype(np.float32)),
                         ("seen", seen.astype(np.float32))):
        columns |= {f"{f} {what}": column for f, column in zip(FINDINGS, values.T, strict=True)}
    table = pd.DataFrame(columns)
    table.insert(2, "split", split_by_patient(table, meta["seed"], design.splits))
    return table


def render(meta: dict[str, Any], table: pd.DataFrame, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Embeddings of the rows from ``start`` up to ``stop``, bit for bit the same in whatever pieces they are asked for.

    Parameters
    ----------
    meta : dict
        ``Cohort.meta``.
    table : pandas.DataFrame
        The whole table of :func:`drawn_table`.
    start, stop : int
        As in a slice; to the end when ``stop`` is left out.

    Returns
    -------
    numpy.ndarray
        float32, shape ``(stop - start, features)``.
    """
    design, stream, stop = CxrDesign(**meta["design"]), streams(meta["seed"]), len(table) if stop is None else stop
    patient = table["patient_id"].iloc[start:stop].str[1:].astype(int).to_numpy() - 1
    seen = table.iloc[start:stop][[f"{f} seen" for f in FINDINGS]].to_numpy(dtype=np.float32)
    turn, rows = np.deg2rad(design.appearance), np.arange(stop - start)
    inputs = np.zeros((stop - start, _DIRECTIONS), dtype=np.float32)
    inputs[:, :len(FINDINGS)] = np.cos(turn) * seen / design.read_out
    first = len(FINDINGS)
    race = pd.Categorical(table["race"].iloc[start:stop], categories=ATTRIBUTES["race"]).codes
    for code in range(_RACES):
        inputs[race == code, first:first + len(FINDINGS)] = np.sin(turn) * seen[race == code] / design.read_out
        first += len(FINDINGS)
    for name, values in ATTRIBUTES.items():
        inputs[rows, first + pd.Categorical(table[name].iloc[start:stop], categories=values).codes] = design.visible
        first += len(values)
    inputs[:, first:] = stream("person").standard_normal((patient.max() + 1, _PARTS))[patient] / design.read_out
    images, directions = np.empty((stop - start, meta["features"]), np.float32), _directions(meta["features"])
    block = np.zeros((_BLOCK, _DIRECTIONS), np.float32)
    for number in range(start // _BLOCK, -(-stop // _BLOCK)):
        low, high = max(start, number * _BLOCK), min(stop, (number + 1) * _BLOCK)
        place = slice(low - number * _BLOCK, high - number * _BLOCK)
        block[place] = inputs[low - start:high - start]
        noise = stream("noise", number).standard_normal((_BLOCK, meta["features"]), dtype=np.float32)
        images[low - start:high - start] = (noise + block @ directions)[place]  # always of one shape: equal last bits
    return images


def _with_no_finding(findings: np.ndarray) -> np.ndarray:
    """Drawn findings (n, 13) with "No Finding", which follows from the pathological ones, in its place: (n, 14)."""
    normal = ~findings[:, [f != DEVICES for f in DRAWN]].any(axis=1)
    return np.insert(findings, FINDINGS.index(NO_FINDING), normal, axis=1)


@lru_cache(maxsize=2)
def _directions(features: int) -> np.ndarray:
    """Orthonormal rows (directions, features): the foundation model, which is the same whatever the cohort."""
    random = streams(0)("encoder").standard_normal((features, _DIRECTIONS))
    return np.ascontiguousarray(np.linalg.qr(random)[0].T, dtype=np.float32)
