"""Figures, tables and the explorer of chapter 5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .. import answer_key, claims, explore, pictures, plotting
from ..autoencoders import Autoencoder, direction
from ..clustering import HiddenMode, Maps
from ..cohort import Cohort
from ..studies import chapter_05 as study
from .stored import over_seeds

ENCODERS = {"variational": "variational", "diffusion": "diffusion", "pca": "components, same size",
            "pixels": "raw pixels", "untrained": "untrained encoder", "supervised": "taught sex and findings"}
"""Names of the stored runs' embeddings in figures and tables."""

KINDS_COMPARED = {"AUC of sex": "c_sex", "AUC of the view": "c_view", "R² of age": "c_age",
                  "AUC of the shift": "c_hidden", "AUC of cardiomegaly": "c_cardiomegaly"}
"""Claims that hold what diffusion tells less what the variational autoencoder tells."""

GAPS_MOVED = {f"{cause}, {how}": f"e_{name}_{end}"
              for cause, name in (("prevalence", "prevalence"), ("alike", "equal"), ("thresholds' own", "own"))
              for how, end in (("before", "none"), ("pooled", "pooled_after"), ("within class", "within_after"))}
"""Claims that hold gaps in TPR before and after LEACE."""


def chests(cohort: Cohort) -> plotting.Figure:
    """Six simulated radiographs: both sexes, the other view, two findings, and a patient who lies elsewhere."""
    table = cohort.table.reset_index(drop=True)
    plain = (table[list(cohort.schema.targets)].sum(axis=1) == 0) & (table["hidden"] == 0)
    wanted = {"woman, PA": plain & (table["sex"] == "F") & (table["view"] == "PA"),
              "man, PA": plain & (table["sex"] == "M") & (table["view"] == "PA"),
              "man, AP": plain & (table["sex"] == "M") & (table["view"] == "AP"),
              "cardiomegaly": (table["cardiomegaly_severity"] > 2) & (table["view"] == "PA"),
              "effusion": (table["effusion_severity"] > 2) & (table["view"] == "PA"),
              "shifted": (table["hidden"] == 1) & (table["view"] == "PA")}
    rows = {title: np.flatnonzero(fits)[0] for title, fits in wanted.items() if fits.any()}
    return pictures.image_grid([cohort.batch([row])[0, 0] for row in rows.values()], list(rows),
                               what="Simulated chest radiographs, bone bright, 32 by 32 pixels")


def come_back(models: Mapping[str, Autoencoder], cohort: Cohort, count: int = 3) -> plotting.Figure:
    """Test images as they are and as each autoencoder gives them back."""
    images = cohort.split("test").batch(np.arange(count))
    rows = {"original": images} | {name: model.reconstruct(images) for name, model in models.items()}
    return pictures.image_grid([part[k, 0] for part in rows.values() for k in range(count)],
                               [name for name in rows for _ in range(count)], columns=count,
                               what="Test images and what comes back of them")


def older(model: Autoencoder, cohort: Cohort, latents: np.ndarray, years: float = 30) -> plotting.Figure:
    """One test image, and the same with its latents moved towards younger and towards older."""
    table = cohort.table
    train = (table["split"] == "train").to_numpy()
    given = np.column_stack([table["sex"] == "F", *(table[name] for name in cohort.schema.targets)]).astype(float)
    way = direction(latents[train], table["age"].to_numpy(float)[train], given[train])
    image = cohort.split("test").batch([0])
    moved = model.move(image, way, (-years, 0, years))[:, 0, 0]
    return pictures.image_grid(moved, [f"{years:g} years younger", "as decoded", f"{years:g} years older"],
                               [moved[0] - moved[1], None, moved[2] - moved[1]], "change of grey",
                               "An image moved along the direction of age")


def embedding_map(drawn: Maps, cohort: Cohort, rows: np.ndarray) -> explore.Output:
    """The map of an embedding: choose perplexity and what colours show, point at an image."""
    table = cohort.table.iloc[rows]
    colours = table[["sex", "age", "view", "site"]].assign(
        cardiomegaly=np.where(table["cardiomegaly"] == 1, "yes", "no"),
        hidden=np.where(table["hidden"] == 1, "shifted", "not shifted")).reset_index(drop=True).astype({"age": int})
    first = min(seed for _, seed in drawn.points)
    places = {perplexity: points for (perplexity, seed), points in drawn.points.items() if seed == first}
    return explore.point_map("A map of the embedding", places, colours, cohort.batch(rows)[:, 0])


def two_sides(found: HiddenMode, cohort: Cohort) -> plotting.Figure:
    """All patients along the direction that was found, by what only the simulator knows."""
    shifted = cohort.table["hidden"].to_numpy() == 1
    return plotting.histograms({"shifted": found.scores[shifted], "not shifted": found.scores[~shifted]},
                               "place along the direction that was found")


def sides_seen(found: HiddenMode, cohort: Cohort) -> plotting.Figure:
    """Mean image of either side, and their difference."""
    images = cohort.images[:, 0]
    inside, outside = images[found.inside].mean(0), images[~found.inside].mean(0)
    return pictures.image_grid([outside, inside, inside], ["larger side", "smaller side", "difference"],
                               [None, None, inside - outside], "smaller less larger side",
                               "Mean images of the two sides that were found")


# ---------------------------------------------------------------------- stored runs
def dose_curves(what: str = "hidden") -> plotting.Figure:
    """Stored runs: what is read of sex, age or the shift over the dose that was planted; for the shift with the key."""
    shares, series = np.array([0.0, 0.5, 1.0]), []
    doses = shares * (3 if what == "hidden" else 1)
    if what == "hidden":  # two normal groups, their means a dose apart
        fine = np.linspace(0, 3, 31)
        series.append(plotting.Series("key: place seen perfectly", fine, [answer_key.shift_auc(d) for d in fine]))
    runs = [claims.stored_runs("05", f"d{round(100 * share)}_variational_{what}") for share in shares]
    for name in ("variational", "pca", "pixels", "untrained"):
        series.append(over_seeds(ENCODERS[name], doses, [run[f"{name}_{what}"] for run in runs]))
    titles = {"sex": "AUC of sex", "age": "R² of age", "hidden": "AUC of the shift"}
    return plotting.lines(series, "dose", titles[what], legend=True)


def found_over_dose() -> plotting.Figure:
    """Stored runs: share of cohorts in which a mode that no label explains is found, with Wilson intervals."""
    doses, series = (0, 4, 5, 6), []
    for name in ("variational", "pca", "untrained"):
        verdicts = [claims.verdict(claims.find_claim("05", f"b{dose}_{name}")) for dose in doses]
        series.append(plotting.Series(ENCODERS[name], doses, *np.transpose([(v.mean, v.low, v.high) for v in verdicts]),
                                      points=True))
    return plotting.lines(series, "dose of the hidden shift", "share of cohorts", ylim=(-0.05, 1.05), legend=True)


def encoders_beside_published() -> pd.DataFrame:
    """Stored runs, beside Hunecke's poster: balanced accuracy of view and sex, MAE of age, mean AUC of findings."""
    runs = claims.stored_runs("05", "a_sex")
    columns = {"view": "view_accuracy", "sex": "sex_accuracy", "age MAE": "age_error", "findings": "findings"}
    rows = {f"{label} (ours)": {title: runs[f"{name}_{column}"].mean() for title, column in columns.items()}
            for name, label in ENCODERS.items() if name != "supervised"}
    for k, label in enumerate(("variational, 128 (published)", "diffusion, 512 (published)")):
        rows[label] = {title: values[k] for title, values in zip(columns, study.PUBLISHED.values(), strict=True)}
    return pd.DataFrame(rows).T.round(3)


def error_over_training() -> plotting.Figure:
    """Stored runs: squared error of validation images that come back, over equal training time."""
    runs = claims.stored_runs("05", "a_sex")
    quarters = (1, 2, 3, 4)
    return plotting.lines([over_seeds(ENCODERS[name], quarters, [runs[f"{name}_error_at_{k}"] for k in quarters])
                           for name in ("variational", "diffusion")], "quarters of the training time",
                          "squared error a pixel", digits=4)


def over_agreement(what: str, names: Mapping[str, str]) -> plotting.Figure:
    """Stored runs: an AUC after erasure over the agreement of sex and cardiomegaly.

    ``what``: ``linear`` or ``rbf`` probe of sex, ``same`` or ``apart`` for cardiomegaly; ``names``: label by version.
    """
    runs, agreements = claims.stored_runs("05", "a_sex"), (0.5, 0.6, 0.7, 0.8, 0.9)
    series = [over_seeds(label, agreements, [runs[f"p{round(100 * p)}_{name}_{what}"] for p in agreements])
              for name, label in names.items()]
    title = {"linear": "AUC of sex, linear probe", "rbf": "AUC of sex, RBF machine", "same": "AUC of cardiomegaly",
             "apart": "AUC of cardiomegaly, sex independent"}[what]
    return plotting.lines(series, "P(woman | cardiomegaly)", title, legend=True)


def maps_of_known_groups() -> pd.DataFrame:
    """Stored runs: ratios of distances and widths, and islands in a cloud without groups: true, and on maps."""
    runs = claims.stored_runs("05", "f_distance")
    rows = {"in the embedding": "true", **{f"map, perplexity {p}": str(p) for p in (5, 30, 100)}}
    return pd.DataFrame({label: {title: runs[f"{what}_{end}"].mean() for title, what in
                                 (("distances", "distance"), ("widths", "size"), ("islands in a cloud", "islands"))}
                         for label, end in rows.items()}).T.round(2)


def inflation_over_likeness() -> plotting.Figure:
    """Stored runs: AUC of a finding that hardly shows, split by image and by patient, over the likeness of images."""
    runs, likeness = claims.stored_runs("05", "g_0"), (0.0, 0.5, 0.9, 1.0)
    series = [over_seeds(f"split by {label}", likeness, [runs[f"{way}_{round(100 * k)}"] for k in likeness])
              for way, label in (("rows", "image"), ("patients", "patient"))]
    return plotting.lines(series, "correlation of a patient's images", "AUC of a nodule", legend=True)
