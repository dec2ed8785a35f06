"""A scenario: who carries which bias attribute, and how strongly.

A :class:`Scenario` is the whole design of a simulated study before any image exists: the classes, how severe the
disease is in each, and for every bias attribute the probability of carrying it given the class. ``Scenario.draw``
turns it into a table with one row per subject, *stratified* so that nothing but the declared bias separates the groups.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import combinations as pairs
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import truncnorm

from .cohort import SPLITS
from .stratify import assign, balance, quotas

MORPHOLOGY, STRETCH, GAIN, GAMMA, RECEIVE_FIELD = "morphology", "contrast_stretch", "gain", "gamma", "receive_field"
KINDS = (MORPHOLOGY, STRETCH, GAIN, GAMMA, RECEIVE_FIELD)


@dataclass(frozen=True)
class Effect:
    """Distribution of an effect's strength among those who carry it: normal, or constant when ``sd`` is 0.

    Parameters
    ----------
    mean, sd : float
        Mean and standard deviation, in units of the effect (standard units of a field, or a contrast factor).
    """

    mean: float
    sd: float = 0.0

    def __post_init__(self):
        if not np.isfinite(self.mean) or not np.isfinite(self.sd) or self.sd < 0:
            raise ValueError(f"effect needs a finite mean and a standard deviation of at least 0, got {self}")

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw ``n`` strengths, shape ``(n,)``."""
        return self.mean + self.sd * rng.standard_normal(n)


@dataclass(frozen=True)
class BiasAttribute:
    """An attribute that is not the disease, shows in the image, and may be more common in one class.

    Parameters
    ----------
    name : str
        Column name in the cohort's table.
    kind : {'morphology', 'contrast_stretch', 'gain', 'gamma', 'receive_field'}
        How it shows in the image.
    prevalence : tuple of float
        P(attribute | class), one value per class, in the order of ``Scenario.classes``, each in [0, 1].
    region : str, optional
        Named anatomical region of a morphology bias; the other kinds act on the whole image and take none.
    effect : Effect
        Strength among carriers; everybody else has exactly 0.
    """

    name: str
    kind: str
    prevalence: tuple[float, ...]
    region: str | None = None
    effect: Effect = field(default_factory=lambda: Effect(2.0, 1.0))

    def __post_init__(self):
        object.__setattr__(self, "prevalence", tuple(float(p) for p in self.prevalence))
        if self.kind not in KINDS:
            raise ValueError(f"attribute '{self.name}': unknown kind '{self.kind}', expected one of {', '.join(KINDS)}")
        bad = [p for p in self.prevalence if not 0 <= p <= 1]
        if bad:
            raise ValueError(f"attribute '{self.name}': prevalence must lie in [0, 1], got {bad[0]}")
        if (self.kind == MORPHOLOGY) != (self.region is not None):
            raise ValueError(f"attribute '{self.name}': a region is needed for kind 'morphology' and for no other")


@dataclass(frozen=True)
class Scenario:
    """A simulated study design with known truth.

    Parameters
    ----------
    name : str
        Short name, used in file names and figures.
    attributes : tuple of BiasAttribute
        Bias attributes; may be empty.
    class_shares : tuple of float
        Share of each class, class 0 (no disease) first; must sum to 1.
    severity_means : tuple of float
        Mean of the disease severity ``d`` in each class, in standard deviations (SimBA, generate_data: -1 and +1).
    severity_sd : float
        Standard deviation of ``d`` within a class.
    disease_region : str
        Named region that the disease deforms.
    split_shares : tuple of float
        Shares of train, validation and test; must sum to 1 (SimBA: .5, .25, .25).
    subject_modes : int
        Number of independent components of normal anatomical variation.
    subject_bound : float
        Each component is a standard normal truncated at plus and minus this value (SimBA: 3.5).
    joint : tuple, optional
        P(attribute combination | class) as nested tuples, shape ``(classes, 2, ..., 2)``, when the attributes are
        *not* independent given the class. Its margins must agree with the prevalences.

    Notes
    -----
    Design after Stanley et al., "Towards objective and systematic evaluation of bias in AI for medical imaging"
    (JAMIA 2024) and its code, github.com/estanley16/SimBA, ``generate_data/define_stratified_distributions.py``.
    There one scalar drives all subject components; here they are independent, so balance is tested on each.
    """

    name: str
    attributes: tuple[BiasAttribute, ...] = ()
    class_shares: tuple[float, ...] = (0.5, 0.5)
    severity_means: tuple[float, ...] = (-1.0, 1.0)
    severity_sd: float = 1.0
    disease_region: str = "left_putamen"
    split_shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
    subject_modes: int = 10
    subject_bound: float = 3.5
    joint: tuple | None = None

    def __post_init__(self):
        object.__setattr__(self, "attributes", tuple(self.attributes))
        object.__setattr__(self, "joint", _as_tuples(self.joint))
        for shares, what in ((self.class_shares, "class_shares"), (self.split_shares, "split_shares")):
            if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
                raise ValueError(f"{what} must be at least 0 and sum to 1, got {tuple(shares)}")
        if min(self.class_shares) <= 0:
            raise ValueError(f"every class needs a share above 0, got class_shares={tuple(self.class_shares)}")
        if len(self.split_shares) != len(SPLITS):
            raise ValueError(f"split_shares needs one value for each of {', '.join(SPLITS)}, got {self.split_shares}")
        n_classes = len(self.class_shares)
        if len(self.severity_means) != n_classes:
            raise ValueError(f"severity_means has {len(self.severity_means)} values for {n_classes} classes")
        if not self.severity_sd > 0:
            raise ValueError(f"severity_sd must be above 0, got {self.severity_sd}")
        if self.subject_modes < 1 or not self.subject_bound > 0:
            raise ValueError("subject_modes must be at least 1 and subject_bound above 0, "
                             f"got {self.subject_modes} and {self.subject_bound}")
        if len(set(self.attribute_names)) != len(self.attributes):
            raise ValueError(f"attribute names must differ, got {list(self.attribute_names)}")
        reserved = set(self.attribute_names) & {"image_id", "patient_id", "split", "disease", *self.latent_names}
        if reserved:
            raise ValueError(f"attribute name '{sorted(reserved)[0]}' is used for another column")
        for attribute in self.attributes:
            if len(attribute.prevalence) != n_classes:
                raise ValueError(f"attribute '{attribute.name}' has {len(attribute.prevalence)} prevalences "
                                 f"for {n_classes} classes")
        self.joint_table()

    # ------------------------------------------------------------------ what the design says
    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the bias attributes, in order."""
        return tuple(a.name for a in self.attributes)

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Columns of the table that hold the truth: severity, subject components and their norm, strengths."""
        modes = tuple(f"subject_{k + 1}" for k in range(self.subject_modes))
        return ("severity", *modes, "subject_norm", *(f"{a}_strength" for a in self.attribute_names))

    @property
    def balanced_latents(self) -> tuple[str, ...]:
        """Latents on which groups and splits must not differ within a class: all but the biases' own strength."""
        return self.latent_names[: self.subject_modes + 2]

    def joint_table(self) -> np.ndarray:
        """P(attribute combination | class), shape ``(classes, 2, ..., 2)`` with one axis of length 2 per attribute.

        Raises
        ------
        ValueError
            When a given joint table is not a distribution, or its margins contradict the prevalences.
        """
        n_classes, n_attributes = len(self.class_shares), len(self.attributes)
        if self.joint is None:
            table = np.ones((n_classes,) + (2,) * n_attributes)
            for k, attribute in enumerate(self.attributes):
                p = np.asarray(attribute.prevalence)
                shape = (n_classes,) + tuple(2 if j == k else 1 for j in range(n_attributes))
                table = table * np.stack([1 - p, p], axis=1).reshape(shape)
            return table
        table = np.asarray(self.joint, dtype=float)
        if table.shape != (n_classes,) + (2,) * n_attributes:
            raise ValueError(f"joint has shape {table.shape}, expected {(n_classes,) + (2,) * n_attributes}")
        if table.min() < 0 or np.abs(table.reshape(n_classes, -1).sum(1) - 1).max() > 1e-6:
            raise ValueError("joint must be at least 0 and sum to 1 within each class")
        for k, attribute in enumerate(self.attributes):
            margin = np.moveaxis(table, k + 1, -1)[..., 1].reshape(n_classes, -1).sum(1)
            if np.abs(margin - attribute.prevalence).max() > 1e-6:
                raise ValueError(f"joint gives attribute '{attribute.name}' the prevalences "
                                 f"{margin.round(4).tolist()}, but it declares {list(attribute.prevalence)}")
        return table

    def at(self, p: float) -> Scenario:
        """Same design with P(attribute | disease) = p and P(attribute | no disease) = 1 - p for every attribute."""
        if len(self.class_shares) != 2:
            raise ValueError("Scenario.at(p) is defined for two classes")
        if not 0 <= p <= 1:
            raise ValueError(f"p must lie in [0, 1], got {p}")
        changed = tuple(replace(a, prevalence=(1 - p, p)) for a in self.attributes)
        return replace(self, attributes=changed, joint=None)

    def decorrelated(self) -> Scenario:
        """Same design with every attribute at .5 in every class, independent: the honest test set."""
        changed = tuple(replace(a, prevalence=(0.5,) * len(self.class_shares)) for a in self.attributes)
        return replace(self, name=f"{self.name}-decorrelated", attributes=changed, joint=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; ``Scenario.from_dict`` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scenario:
        """Rebuild a scenario from :meth:`to_dict` (also after a trip through JSON)."""
        values = dict(values)
        attributes = tuple(BiasAttribute(**{**a, "prevalence": tuple(a["prevalence"]), "effect": Effect(**a["effect"])})
                           for a in values.pop("attributes", ()))
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(attributes=attributes, **values)

    # ------------------------------------------------------------------ the table
    def draw(self, n: int, seed: int, stratify: bool = True) -> pd.DataFrame:
        """Draw the table of ``n`` subjects, one row each, no row dropped.

        Parameters
        ----------
        n : int
            Number of subjects.
        seed : int
            The one seed; every purpose has its own stream, so adding an attribute changes no subject.
        stratify : bool
            Balance splits and attributes within class and within bins of severity and subject magnitude.
            ``False`` assigns them at random with the same expected counts: only to show why we stratify.

        Returns
        -------
        pandas.DataFrame
            ``image_id, patient_id, split, disease``, one 0/1 column per attribute, then ``latent_names``.
            ``table.attrs['balance']`` is the largest standardised mean difference left (see :func:`balance`).
        """
        n = whole(n, "n", least=1)
        _check_counts(self, n)
        rng = streams(seed)
        disease = np.repeat(np.arange(len(self.class_shares)), quotas(self.class_shares, n))
        disease = disease[rng("order").permutation(n)]
        severity = np.asarray(self.severity_means)[disease] + self.severity_sd * rng("severity").standard_normal(n)
        modes = truncnorm.rvs(-self.subject_bound, self.subject_bound, size=(n, self.subject_modes),
                              random_state=rng("subject"))
        latents = np.column_stack([severity, modes, np.linalg.norm(modes, axis=1)])

        split = np.zeros(n, dtype=int)
        combination = np.zeros(n, dtype=int)
        joint = self.joint_table().reshape(len(self.class_shares), -1)
        combinations = np.array(list(product((0, 1), repeat=len(self.attributes))), dtype=int)
        groups = [(carried == 1, carried == 0) for carried in combinations.T]
        splits = list(pairs(np.eye(len(SPLITS), dtype=bool), 2))
        for y in range(len(self.class_shares)):
            rows = np.flatnonzero(disease == y)
            split[rows] = assign(latents[rows], np.zeros(len(rows), int), self.split_shares, splits,
                                 rng("split", y), stratify)
            combination[rows] = assign(latents[rows], split[rows], joint[y], groups, rng("attributes", y), stratify)

        width = max(5, len(str(n)))
        ids = [f"{k + 1:0{width}d}" for k in range(n)]
        columns: dict[str, Any] = {"image_id": ids, "patient_id": ids, "split": np.array(SPLITS, dtype=object)[split],
                                   "disease": disease}
        carried = {a: combinations[combination, k] for k, a in enumerate(self.attribute_names)}
        columns |= carried
        columns |= dict(zip(self.balanced_latents, latents.T, strict=True))
        for name, strength in self.potential_strengths(n, seed).items():
            columns[f"{name}_strength"] = np.where(carried[name] == 1, strength, 0.0)
        table = pd.DataFrame(columns)
        table.attrs["balance"] = float(balance(table, self)["smd"].abs().max()) if n > 1 else float("nan")
        return table

    def potential_strengths(self, n: int, seed: int) -> dict[str, np.ndarray]:
        """Strength each subject has *if* it carries the attribute: what a counterfactual twin gets.

        The streams go by the attributes' order, so a further attribute leaves the strengths of the earlier ones alone.
        """
        rng = streams(seed)
        return {a.name: a.effect.draw(rng("strength", *([k] if k else [])), n) for k, a in enumerate(self.attributes)}


def streams(seed: int):
    """Independent named random streams from one seed.

    Parameters
    ----------
    seed : int
        At least 0.

    Returns
    -------
    callable
        ``stream(purpose, *keys)`` gives a fresh ``numpy.random.Generator`` that depends on the seed, the purpose's
        name and the integer keys alone, never on which other streams exist or were used. Names count by their first
        eight letters: tell streams that begin alike apart by a key.
    """
    seed = whole(seed, "seed", least=0)

    def stream(purpose: str, *keys: int) -> np.random.Generator:
        spawn_key = (int.from_bytes(purpose.encode(), "little") % (2**63), *keys)
        return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(seed, spawn_key=spawn_key)))

    return stream


# ---------------------------------------------------------------------- small helpers
def whole(value, name: str, least: int) -> int:
    """``value`` as an int; ``ValueError`` naming it unless it is a whole number of at least ``least``."""
    if not (value >= least and value % 1 == 0):
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
    return int(value)


def _check_counts(scenario: Scenario, n: int) -> None:
    """Refuse a cohort so small that a declared group would be empty."""
    joint = scenario.joint_table().reshape(len(scenario.class_shares), -1)
    for y, per_class in enumerate(quotas(scenario.class_shares, n)):
        wanted = joint[y] > 0
        if per_class < wanted.sum():
            raise ValueError(f"n={n} leaves {per_class} subjects for class {y}, but scenario '{scenario.name}' "
                             f"declares {wanted.sum()} groups there; use a larger n")


def _as_tuples(nested):
    return tuple(_as_tuples(v) for v in nested) if isinstance(nested, (list, tuple)) else nested


# ---------------------------------------------------------------------- published designs
def preset(name: str, p: float = 0.7) -> Scenario:
    """A published design by name, at any agreement ``p`` between bias and disease.

    Parameters
    ----------
    name : {'no_bias', 'near', 'far', 'intensity', 'both'}
        ``near`` and ``far`` are morphology biases in a region near to and far from the disease; ``both`` has the far
        morphology bias and the intensity bias, independent given the class (245/105/105/45 per 500 at p = .7).
    p : float
        P(attribute | disease); P(attribute | no disease) is 1 - p. Published value .7 (Stanley et al. 2023, 2024).

    Raises
    ------
    ValueError
        For an unknown name (the error lists the names) or p outside [0, 1].
    """
    near = BiasAttribute("morphology", MORPHOLOGY, (0.3, 0.7), region="left_insula")
    far = replace(near, region="right_occipital")
    intensity = BiasAttribute("intensity", STRETCH, (0.3, 0.7), effect=Effect(1.2))
    designs = {"no_bias": (), "near": (near,), "far": (far,), "intensity": (intensity,), "both": (far, intensity)}
    if name not in designs:
        raise ValueError(f"unknown preset '{name}', expected one of {', '.join(designs)}")
    return Scenario(name, designs[name]).at(p)
