"""The capstone: a cohort whose truth is drawn from a seed and sealed, and the score of a student's answers.

:func:`make` writes a folder for the student (images, table, a reader's scores, an empty form) and one for the
instructor (the truth). The student's form holds the SHA-256 of the truth file, so everybody can see later that the
truth was not changed. It is no lock: who knows the seed can make the truth again. Take a long seed and keep it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from .. import scenario as designs
from .. import simulate, storage
from ..cohort import Cohort, Schema
from ..evaluation import twin_gaps
from ..files import to_json, write_text
from ..scenario import BiasAttribute, Effect, Scenario, streams, whole

ATTRIBUTES = ("scanner", "ward", "referral", "season")
ROLES = ("shortcut", "visible", "related", "neither")
"""Of the attributes: goes with the disease and shows; only shows; only goes with the disease; neither of the two."""
REGIONS = ("right_occipital", "left_occipital", "right_superior_temporal", "left_superior_temporal")
GREY = {designs.STRETCH: 1.2, designs.GAMMA: 1.25, designs.RECEIVE_FIELD: 0.15}
SHAPE = 2.5
AGREEMENTS = {"grey": (0.6, 0.65, 0.7), "shape": (0.75, 0.8, 0.85)}
COMPONENTS = 60
LEAST = 1200

BRIEF = """# An unknown cohort

Simulated brain slices, for teaching. Not for clinical use.

- `cohort.npz`: images and table, read with `bias_tutorial.storage.load("cohort.npz")`. Target: `disease`. Attributes,
  each 0 or 1: {attributes}. They are names and nothing more: do not conclude from what a name means.
- `table.csv`: the same table, for other programs.
- `reader.csv`: what a reader said of each test image: its score for disease, called sick above one half. It was trained
  on the training images alone and was never given an attribute.
- `answers.yml`: the form. Fill in what you know and leave the rest empty.

Your task: one of the attributes is a shortcut of this reader: it goes with the disease in training, *and* it shows in
the images. Find out which one, who is harmed, and how sure you are; say of the other three why they are none. Write one
page. The form is scored against a sealed truth, and its hash stands in the form, so that nobody can change it.
"""

FORM = """# Your answers. Leave empty what you do not know: an empty field gives no points and costs none.
cohort: {seal}  # leave this as it is
attribute:      # the shortcut, one of: {attributes}
kind:           # how it shows: shape (something is moved, in one place) or grey (the grey values of most of the image)
direction:      # in the training rows it is more frequent among the: sick, or healthy
harmed:         # the sick patients whom the reader misses more often: carriers (attribute 1), or others (attribute 0)
association:    # P(attribute | sick) less P(attribute | healthy) in the training rows, a number from -1 to 1
gap:            # true positive rate of carriers less that of the others in the test rows, a number from -1 to 1
gap_interval:   # its 95% interval: [low, high]
others:         # the other three: visible (shows, but does not go with the disease), related (goes with it, does not
                # show), or neither
{others}
"""


# ---------------------------------------------------------------------- making
def make(seed: int, out: str | Path, n: int = 3000) -> dict[str, Path]:
    """Make a cohort with a sealed truth: ``out/student`` and ``out/instructor``.

    Parameters
    ----------
    seed : int
        At least 0. Everything but the salt of the seal follows from it. Who knows it knows the truth: take a long one.
    out : path
        A folder that does not exist yet, or is empty. It appears whole or not at all.
    n : int
        Subjects, at least 1200: with fewer no honest interval would be short enough.

    Returns
    -------
    dict
        ``student`` and ``instructor`` (folders), ``truth`` and ``answers`` (files).

    Raises
    ------
    ValueError
        For a bad seed or size, or a folder that holds something.
    OSError
        When the folder cannot be written.
    """
    seed, n, out = whole(seed, "seed", least=0), whole(n, "n", least=LEAST), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"'{out}' holds something already; name a new or empty folder")
    truth, design = draw(seed)
    cohort = simulate.brain(design, n, seed, (56, 48))
    reader = _fit(cohort.split("train"))
    test = cohort.split("test")
    truth |= _harm(reader, test, truth)

    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        text = to_json({**truth, "seed": seed, "n": n, "salt": secrets.token_hex(16)}) + "\n"
        write_text(work / "instructor" / "truth.json", text)
        _write_student(work / "student", cohort, test, reader, hashlib.sha256(text.encode()).hexdigest())
        work.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"student": out / "student", "instructor": out / "instructor",
            "truth": out / "instructor" / "truth.json", "answers": out / "student" / "answers.yml"}


def draw(seed: int) -> tuple[dict[str, Any], Scenario]:
    """Draw a truth, and the design that has it."""
    rng = streams(seed)
    roles = dict(zip((str(name) for name in rng("capstone roles").permutation(ATTRIBUTES)), ROLES, strict=True))
    kind = str(rng("capstone kind").choice(["grey", "shape"]))
    agreement = float(rng("capstone agreement").choice(AGREEMENTS[kind]))
    direction = str(rng("capstone direction").choice(["sick", "healthy"]))
    related = float(rng("capstone related").choice([0.25, 0.3, 0.7, 0.75]))
    looks = {"grey": (str(rng("capstone grey").choice(list(GREY))), None),
             "shape": (designs.MORPHOLOGY, str(rng("capstone region").choice(REGIONS)))}

    def attribute(name: str, role: str) -> BiasAttribute:
        among_sick = {"shortcut": agreement if direction == "sick" else 1 - agreement, "related": related}.get(role, .5)
        shown = {"shortcut": kind, "visible": "shape" if kind == "grey" else "grey"}.get(role)
        how, region = looks[shown or "shape"]
        effect = Effect(GREY[how]) if shown == "grey" else Effect(SHAPE, 0.5) if shown else Effect(0.0)
        return BiasAttribute(name, how, (1 - among_sick, among_sick), region, effect)

    design = Scenario("capstone", tuple(attribute(name, roles[name]) for name in ATTRIBUTES),
                      split_shares=(0.4, 0.1, 0.5))
    shortcut = next(name for name, role in roles.items() if role == "shortcut")
    healthy, sick = design.attributes[ATTRIBUTES.index(shortcut)].prevalence
    how, region = looks[kind]
    truth = {"attribute": shortcut, "kind": kind, "how": how, "region": region, "direction": direction,
             "association": round(sick - healthy, 4), "roles": roles}
    return truth, design


def _fit(train: Cohort) -> Pipeline:
    """The reader: logistic regression on the principal components of the pixels."""
    model = make_pipeline(PCA(COMPONENTS, svd_solver="full"), LogisticRegression(max_iter=2000))
    return model.fit(train.images.reshape(len(train), -1), train.table["disease"].to_numpy())


def _scores(reader: Pipeline, cohort: Cohort) -> np.ndarray:
    return reader.predict_proba(cohort.images.reshape(len(cohort), -1))[:, 1].round(4)


def _harm(reader: Pipeline, test: Cohort, truth: Mapping[str, Any]) -> dict[str, Any]:
    """What the attributes that show do to the reader's decisions, on counterfactual twins of the test subjects."""
    disease, gaps = test.table["disease"].to_numpy(), {}
    said = _scores(reader, test) > 0.5
    for name, role in truth["roles"].items():
        if role in ("shortcut", "visible"):
            carried = test.table[name].to_numpy() == 1
            other = said.copy()  # what is said of each subject's twin
            for value in (0, 1):
                rows = carried == (value == 0)
                other[rows] = _scores(reader, simulate.counterfactual(test.subset(rows), **{name: value})) > 0.5
            found = twin_gaps(disease, np.where(carried, said, other), np.where(carried, other, said))
            gaps[name] = {which: float(row["gap"]) for which, row in found.iterrows()}
    gap = gaps[truth["attribute"]]["tpr_gap"]
    return {"gap": gap, "harmed": "others" if gap > 0 else "carriers", "twin_gaps": gaps,
            "accuracy": float((said == disease).mean())}


def _write_student(folder: Path, cohort: Cohort, test: Cohort, reader: Pipeline, seal: str) -> None:
    shown = ["image_id", "patient_id", "split", "disease", *ATTRIBUTES]
    table = cohort.table[shown].copy()
    table.attrs = {}
    plain = Cohort(cohort.images, table, Schema({"disease": (0, 1)}, dict.fromkeys(ATTRIBUTES, (0, 1))),
                   meta={"simulated": True, "licence": "CC BY 4.0; template: see NOTICE of the course"})
    folder.mkdir(parents=True)
    storage.save(plain, folder / "cohort.npz", "uint16")
    write_text(folder / "table.csv", table.to_csv(index=False, lineterminator="\n"))
    said = test.table[["image_id"]].assign(score=_scores(reader, test))
    write_text(folder / "reader.csv", said.to_csv(index=False, lineterminator="\n"))
    names = ", ".join(ATTRIBUTES)
    write_text(folder / "README.md", BRIEF.format(attributes=names))
    others = "\n".join(f"  {name}:" for name in ATTRIBUTES)
    write_text(folder / "answers.yml", FORM.format(seal=seal, attributes=names, others=others))
