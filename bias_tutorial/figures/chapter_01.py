"""Figures and explorers of chapter 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .. import answer_key, claims, explore, pictures, plotting, simulate
from ..cohort import Cohort
from ..scenario import Scenario
from ..simulate import anatomy, deformation, effects


def regions_on_template(names: Sequence[str], shape: tuple[int, int] = (112, 96)) -> plotting.Figure:
    """The template slice with named regions outlined."""
    grid = anatomy.Grid(shape)
    masks = {name: anatomy.region_mask(name, grid) for name in names}
    return pictures.regions(anatomy.template(grid.shape), masks, "MNI152 template, axial slice, with regions outlined")


def local_effect(region: str, strength: float, shape: tuple[int, int] = (112, 96)) -> plotting.Figure:
    """Arrows that show how a region grows (or shrinks) at a given strength."""
    grid = anatomy.Grid(shape)
    field = effects.region_field(region, grid)
    moved = deformation.exponential(strength * field.velocity[None])[0] * field.step
    whole = torch.zeros(2, *grid.shape)
    whole[(slice(None), *field.box)] = moved
    return pictures.displacement(anatomy.template(grid.shape), whole.numpy(), step=3, margin=12,
                                 what=f"The {region.replace('_', ' ')} at strength {strength:g}")


def twins(cohort: Cohort, row: int) -> plotting.Figure:
    """One subject without bias, and with each bias of its design switched on alone."""
    names = list(cohort.schema.attributes)
    one = cohort.subset([row])
    off = dict.fromkeys(names, 0)
    shown = [simulate.counterfactual(one, **{**off, **({name: 1} if name else {})}).images[0, 0]
             for name in (None, *names)]
    return pictures.image_grid(shown, ["no bias", *(f"{name} on" for name in names)],
                               [None, *(image - shown[0] for image in shown[1:])], "change of grey",
                               what="One simulated subject and its counterfactual twins")


def spot_the_bias(cohort: Cohort, attribute: str, rounds: int = 10, seed: int = 0) -> explore.Output:
    """A game: does this simulated brain carry the bias? Half of the pictures do."""
    rng = np.random.default_rng(seed)
    carried = cohort.table[attribute].to_numpy()
    rows = np.concatenate([rng.choice(np.flatnonzero(carried == v), rounds // 2, replace=False) for v in (1, 0)])
    items = []
    for place, row in enumerate(rng.permutation(rows), 1):
        strength = cohort.table[f"{attribute}_strength"].iloc[row]
        what = f"It carries it at strength {strength:.1f}." if carried[row] else "It does not carry it."
        figure = pictures.image_grid([cohort.images[row, 0]], [f"picture {place}"], what="A simulated brain slice")
        items.append(explore.Item(figure, "biased" if carried[row] else "not biased", what))
    return explore.guessing_game("Can you see it?", f"Does this brain carry the {attribute} bias?", items,
                                 ["biased", "not biased"])


def key_explorer(p_values: Sequence[float], start: float = 0.7) -> explore.Output:
    """A slider over p: the answer key for both groups, overall, and what we want."""
    curve = answer_key.shortcut_curve(p_values)
    shown = [plotting.Series(name, curve["p"], curve[column]) for name, column in
             (("what we want", "wanted"), ("aligned", "aligned"), ("conflicting", "conflicting"),
              ("overall", "overall"))]

    def frame(p: float) -> explore.Frame:
        at = curve[curve["p"] == p].iloc[0]
        values = {"aligned": at["aligned"], "conflicting": at["conflicting"], "overall": at["overall"],
                  "what we want": at["wanted"], "gap": at["tpr_gap"]}
        figure = plotting.lines(shown, "agreement p", "accuracy", mark=p, ylim=(0.25, 1.02))
        return explore.Frame({k: float(v) for k, v in values.items()}, figure)

    return explore.explorer("What the training data reward", {"p": list(p_values)}, frame, {"p": start},
                            {"p": "agreement p between bias and disease"})


def observers_against_key(chapter: str = "01", prefix: str = "b_") -> plotting.Figure:
    """Stored runs of the observer who is told the truth, on the curves of the answer key."""
    found = [c for c in claims.load_claims(chapter) if c.id.startswith(prefix)]
    runs = pd.concat([claims.stored_runs(chapter, c.id) for c in found])
    curve = answer_key.shortcut_curve(np.linspace(runs["p"].min(), runs["p"].max(), 46))
    series = [plotting.Series(f"key, {side}", curve["p"], curve[side]) for side in ("aligned", "conflicting")]
    for side in ("aligned", "conflicting"):
        by_p = runs.groupby("p")[side]
        series.append(plotting.Series(f"measured, {side}", by_p.mean().index, by_p.mean(), by_p.min(), by_p.max(),
                                      points=True))
    return plotting.lines(series, "agreement p", "accuracy", ylim=(0.25, 1.02))


def scenario_counts(scenario: Scenario, table: pd.DataFrame) -> pd.DataFrame:
    """Subjects by class (rows) and combination of attributes (columns)."""
    names = list(scenario.attribute_names)
    counts = table.groupby(["disease", *names]).size().unstack(names)
    return counts.rename(index={0: "no disease", 1: "disease"})
