"""Train one network for every procedure on the same splits, judge each on the test split, keep what is done."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .. import __version__, environment, findings, gaps, multilabel
from ..cohort import Cohort
from ..experiments import code_digest
from ..files import atomic, to_json, write_text
from ..mitigation.resampling import Groups, guard
from ..networks import embedding_mlp
from . import procedures
from .groups import Audited, demographics
from .privacy import LEAST, support

RULES = {"fixed": "fixed at .5", "prevalence": "as many called present as are", "youden": "chosen on validation"}
CHOSEN = "youden"
"""The rule whose gaps are judged for every procedure."""
RATES = ("fnr", "fpr")
WORK = "work"
README = """Kept so that the same command can go on where it was stopped: weights, and the model's probability of every
finding for every study, without ids. Nothing in here is rounded or masked. Do not pass this folder on; delete it when
the report is done.
"""


@dataclass(frozen=True)
class Settings:
    """What is asked of a cohort.

    Parameters
    ----------
    resample : tuple of str
        Procedures, see ``procedures.WORDS``; the plain one is always among them.
    by : tuple of str
        Attributes whose combinations are balanced, and whose intersections are judged.
    seed : int
        Of draws, first weights and batches; every procedure starts from the same weights.
    epochs : int
        At most; training stops after three epochs without a better validation loss.
    draws : int
        Of the bootstrap over patients and of the permutations, at least 100.
    """

    resample: tuple[str, ...] = procedures.DEFAULT
    by: tuple[str, ...] = ("sex", "race")
    seed: int = 0
    epochs: int = multilabel.RECIPE.epochs
    draws: int = 500

    def __post_init__(self):
        object.__setattr__(self, "resample", procedures.ordered(tuple(self.resample)))
        for name, value, least in (("seed", self.seed, 0), ("epochs", self.epochs, 1), ("draws", self.draws, 100)):
            if value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        if not self.by or len(set(self.by)) < len(self.by):
            raise ValueError(f"by must name at least one attribute, each once, got {list(self.by)}")


@dataclass(frozen=True)
class Results:
    """What :func:`run` found, unmasked: for :mod:`bias_tutorial.audit.tables` only.

    Attributes
    ----------
    cohort : Cohort
    groups : Groups
        Of the training rows.
    findings : tuple of str
        Those that were learned.
    left_out : tuple of str
        Findings that too few patients have, or do not have, in some split.
    arms : dict of str to dict
        By procedure: ``rows`` (a group), ``rates`` (a group and finding), ``different`` (rows), and the rows of the
        tables ``training``, ``thresholds``, ``metrics``, ``gaps``, ``levelling_down``.
    """

    cohort: Cohort
    settings: Settings
    groups: Groups
    findings: tuple[str, ...]
    left_out: tuple[str, ...]
    arms: dict[str, dict[str, Any]]


def check_folder(out: Path, settings: Settings, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse a folder that does not belong to this run.

    Parameters
    ----------
    out : path
        New, empty, or with ``run.json`` of the very same run.
    inputs : dict
        What is known of the data and of how they are read.

    Returns
    -------
    dict
        What identifies the run.

    Raises
    ------
    ValueError
        When the folder holds something else; the message names what differs.
    """
    versions = {name: version(name) for name in ("torch", "numpy", "pandas", "scikit-learn", "scipy")}
    versions |= {"bias_tutorial": __version__, "code": code_digest(__name__)}  # of what makes the numbers
    run = {"settings": asdict(settings), "inputs": dict(inputs), "versions": versions}
    run, path = json.loads(to_json(run)), out / "run.json"  # as it will be read again
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            different = [f"{key.replace('_', ' ')}: {_short(found[part].get(key))}, here {_short(value)}"
                         for part in run for key, value in run[part].items() if found[part].get(key) != value]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"'{path}' is not the record of an audit; give another folder") from error
        if different:
            raise ValueError(f"'{out}' holds an audit with another {'; another '.join(different)}; give another "
                             "folder, or delete this one")
    elif out.is_file() or out.is_dir() and any(out.iterdir()):
        raise ValueError(f"'{out}' holds other files, expected a new or empty folder, or one of this very audit")
    return run


def claim_folder(out: Path, settings: Settings, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Write whose folder it is, after :func:`check_folder`."""
    run = check_folder(out, settings, inputs)
    machine = {"device": environment.device(), "threads": torch.get_num_threads(), "system": platform.platform(),
               "python": platform.python_version()}
    write_text(out / "run.json", to_json(run | {"machine": machine}) + "\n")
    write_text(out / WORK / "README.txt", README)
    return run


def run(cohort: Cohort, out: Path, settings: Settings, progress: bool = True) -> Results:
    """Train and judge every procedure; what an earlier, stopped call has finished is read instead.

    Raises
    ------
    ValueError
        For a patient on both sides of the split, an attribute that the cohort lacks, no finding with enough patients,
        and all that resampling and training refuse.
    """
    for name in settings.by:
        if name not in cohort.schema.attributes:
            raise ValueError(f"there is no attribute '{name}' to balance by, expected some of "
                             f"{', '.join(cohort.schema.attributes)}")
    guard(cohort.table)
    learned, left_out = enough(cohort)
    groups = Groups.of(cohort, settings.by, findings=learned)
    judge, arms, sizes = Judge(cohort, settings, learned), {}, {}
    for number, name in enumerate(settings.resample, 1):
        record = out / WORK / f"{name}.json"
        if not record.is_file():
            sample = procedures.make(name, groups, settings.seed, sizes)
            if progress:
                tqdm.write(f"{name} ({number} of {len(settings.resample)}): {len(sample):,} training studies")
            probabilities = _trained(name, sample, cohort, learned, out, settings, progress)
            write_text(record, to_json({
                "rows": procedures.rows_by_group(groups, sample), "rates": procedures.rates_by_group(groups, sample),
                "different": len(np.unique(sample.rows)), **judge.tables(name, probabilities, progress)}))
        arms[name] = json.loads(record.read_text(encoding="utf-8"))  # new or old: the numbers come the same way
        sizes[name] = sum(arms[name]["rows"])
        if name == procedures.PLAIN:
            judge.plain = _probabilities(out, name)
    return Results(cohort, settings, groups, learned, left_out, arms)


def enough(cohort: Cohort) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Findings that ten patients have, and ten do not have, in every split; and the others."""
    targets, patients = list(cohort.schema.targets), cohort.table["patient_id"].to_numpy()
    labels = cohort.table[targets].to_numpy(dtype=float, na_value=np.nan)
    splits = [np.flatnonzero(cohort.table["split"] == split) for split in ("train", "validation", "test")]
    fits = support(labels, splits, patients).min(axis=(0, 2)) >= LEAST
    if not fits.any():
        raise ValueError(f"no finding has {LEAST} patients with it and {LEAST} without it in each of the train, "
                         f"validation and test splits: {len(set(patients)):,} patients are too few for an audit")
    return tuple(np.array(targets)[fits].tolist()), tuple(np.array(targets)[~fits].tolist())


def _trained(name: str, sample, cohort: Cohort, learned: tuple[str, ...], out: Path, settings: Settings,
             progress: bool) -> dict[str, np.ndarray]:
    """Probabilities of validation and test rows, and the epochs, from the file or from a network trained now."""
    if not (path := out / WORK / f"{name}.npz").is_file():
        network = embedding_mlp(cohort.images.shape[1], len(learned), settings.seed)
        recipe = multilabel.Recipe(**(asdict(multilabel.RECIPE) | {"epochs": settings.epochs}))
        history = multilabel.fit(network, cohort, learned, recipe, settings.seed, sample=sample, progress=progress,
                                 checkpoint=out / WORK / f"{name}.pt")
        found = {split: multilabel.predict(network, cohort.split(split)) for split in ("validation", "test")}
        stamp = "simulated-" if "simulator" in cohort.meta else ""
        write_logs(out / "tensorboard" / f"{stamp}{name}", history)
        with atomic(path) as file:
            np.savez(file, **found, **{f"history_{column}": history[column] for column in history})
    return _probabilities(out, name)


def _probabilities(out: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(out / WORK / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def write_logs(folder: Path, history: pd.DataFrame) -> None:
    """Losses of every epoch for TensorBoard; logs of an earlier, stopped call are replaced.

    Raises
    ------
    ModuleNotFoundError
        Without the extra ``report``.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError("TensorBoard logs need the extra: pip install 'bias-tutorial[report]'") from None
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(folder) as writer:
        for row in history.to_dict("records"):
            for loss in ("train_loss", "validation_loss"):
                writer.add_scalar(loss, row[loss], row["epoch"])


class Judge:
    """The test split, and what is asked of every model of it."""

    def __init__(self, cohort: Cohort, settings: Settings, learned: tuple[str, ...]):
        self.settings, self.learned, self.parts, self.plain = settings, learned, {}, {}
        people = demographics(cohort)
        for split in ("validation", "test"):
            rows = np.flatnonzero(cohort.table["split"] == split)
            part = cohort.table.iloc[rows]
            self.parts[split] = part[list(learned)], people.iloc[rows], part["patient_id"]

    def predictions(self, split: str, probability: np.ndarray) -> Audited:
        """One split with what a model says of it."""
        labels, people, patients = self.parts[split]
        return Audited(labels, probability, people, patients, self.settings.by)

    def tables(self, name: str, found: Mapping[str, np.ndarray], progress: bool) -> dict[str, list[dict[str, Any]]]:
        """Everything the report needs to know of one procedure, as rows of its tables."""
        validation, test = (self.predictions(split, found[split]) for split in ("validation", "test"))
        how = {"seed": self.settings.seed, "draws": self.settings.draws}
        cuts = {rule: findings.thresholds(validation, rule) for rule in RULES}
        history = {key.removeprefix("history_"): values for key, values in found.items() if key.startswith("history_")}
        made = {"training": pd.DataFrame(history).to_dict("records"),
                "thresholds": pd.DataFrame(cuts).rename_axis("finding").reset_index().to_dict("records")}
        plain = name == procedures.PLAIN
        rules = RULES if plain else (CHOSEN,)  # once is enough to show what the rule does
        with tqdm(total=9 if plain else 5, desc=f"{name}: judging", disable=not progress) as bar:
            def add(key: str, table: pd.DataFrame, **labels: str) -> None:
                made.setdefault(key, []).extend(table.assign(**labels).to_dict("records"))
                bar.update()

            for rule in rules:
                add("metrics", findings.metrics_by_group(test, cuts[rule], **how), rule=rule)
                for rate in RATES:
                    add("gaps", gaps.gaps(test, cuts[rule], rate, **how), rule=rule, rate=rate)
            if not plain:
                before = {split: self.predictions(split, self.plain[split]) for split in self.parts}
                both = before["test"], test, findings.thresholds(before["validation"], CHOSEN), cuts[CHOSEN]
                for rate in RATES:
                    add("levelling_down", gaps.levelling_down(*both, rate, **how), rate=rate)
        return made


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
