"""Figures and explorers that the chapters show, one function each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from . import answer_key, claims, explore, networks, pictures, plotting, probing, simulate
from .cohort import Cohort
from .scenario import Scenario
from .simulate import anatomy, deformation, effects
from .studies import chapter_03


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


# ---------------------------------------------------------------------- chapter 2
def losses(history: pd.DataFrame) -> plotting.Figure:
    """Loss of training and validation over the epochs of :func:`bias_tutorial.training.fit`."""
    series = [plotting.Series(name, history["epoch"], history[f"{name}_loss"]) for name in ("train", "validation")]
    best = int(history.loc[history["best"], "epoch"].iloc[-1])
    return plotting.lines(series, "epoch", "loss (cross-entropy)", mark=best)


def groups_against_key(results: Mapping[str, Mapping[str, Any]], p: float) -> plotting.Figure:
    """Accuracy of networks in the aligned and the conflicting group, beside both reference lines.

    ``results`` are those of :func:`bias_tutorial.studies.chapter_02.judge`, by design.
    """
    key = answer_key.shortcut_curve(p).iloc[0]
    rows, rewarded = {}, {}
    for name, result in results.items():
        for side in ("aligned", "conflicting"):
            rows[f"{name}, {side}"] = (result[side], *result[f"{side}_interval"])
            rewarded[f"{name}, {side}"] = key[side]
    wanted = dict.fromkeys(rows, key["wanted"])
    return plotting.dots(rows, {"rewarded by the data": rewarded, "what we want": wanted}, "accuracy", xlim=(0.55, 1.0))


RUNS_OVER_N = {500: ("n_500", "g_500"), 1000: ("n_1000", "g_1000"), 2000: ("f_growth",), 4000: ("n_4000", "g_4000")}
"""Training images of the stored runs of ``curve``, and the claims that hold them."""


def _over_seeds(label: str, x: Sequence[float], columns: Sequence[pd.Series]) -> plotting.Series:
    """Results of stored runs, one column per point: mean and 95% t interval over seeds."""
    return plotting.Series(label, x, *np.transpose([claims.over_seeds(column) for column in columns]), points=True)


def gap_over_p() -> plotting.Figure:
    """Stored runs: the network's TPR gap at several agreements, on the key's curve; intervals over seeds."""
    p = (0.5, 0.6, 0.7, 0.9)
    runs, curve = claims.stored_runs("02", "f_growth"), answer_key.shortcut_curve(np.linspace(0.5, 0.9, 41))
    return plotting.lines([plotting.Series("rewarded", curve["p"], curve["tpr_gap"]),
                           plotting.Series("wanted", curve["p"], 0 * curve["p"]),
                           _over_seeds("network", p, [runs[f"p{round(100 * x)}_tpr_gap"] for x in p])],
                          "agreement p", "TPR gap")


def gap_over_n() -> plotting.Figure:
    """Stored runs: the TPR gap at p = .7 over the number of training images; intervals over seeds."""
    n, key = list(RUNS_OVER_N), float(answer_key.shortcut_curve(0.7)["tpr_gap"].iloc[0])
    return plotting.lines([plotting.Series("rewarded", n, [key] * len(n)), plotting.Series("wanted", n, [0.0] * len(n)),
                           _over_seeds("network", n, [claims.stored_runs("02", RUNS_OVER_N[k][0])["p70_tpr_gap"]
                                                      for k in n])],
                          "training images", "TPR gap")


def stored_explorer() -> explore.Output:
    """Sliders over p and n: what networks did in the stored runs, means over seeds and the range of the gap."""
    p_values, curve = [0.5, 0.7, 0.9], answer_key.shortcut_curve(np.linspace(0.5, 0.9, 41))
    runs = {n: pd.concat([claims.stored_runs("02", name).set_index("seed") for name in names], axis=1)
            for n, names in RUNS_OVER_N.items()}
    shown = [plotting.Series(f"key, {side}", curve["p"], curve[side]) for side in ("aligned", "conflicting")]

    def frame(p: float, n: int) -> explore.Frame:
        key = answer_key.shortcut_curve(p).iloc[0]
        at = {what: runs[n][f"p{round(100 * p)}_{what}"]
              for what in ("tpr_gap", "aligned", "conflicting", "same", "decorrelated")}
        values = {"TPR gap": at["tpr_gap"].mean(), "smallest of all seeds": at["tpr_gap"].min(),
                  "largest of all seeds": at["tpr_gap"].max(), "key's gap": key["tpr_gap"],
                  "aligned": at["aligned"].mean(), "conflicting": at["conflicting"].mean(),
                  "training distribution": at["same"].mean(), "decorrelated": at["decorrelated"].mean(),
                  "seeds": len(runs[n])}
        sides = [_over_seeds(side, p_values, [runs[n][f"p{round(100 * x)}_{side}"] for x in p_values])
                 for side in ("aligned", "conflicting")]
        return explore.Frame(values,
                             plotting.lines([*shown, *sides], "agreement p", "accuracy", mark=p, ylim=(0.4, 1.0)))

    return explore.explorer("Networks in the stored runs", {"p": p_values, "n": list(RUNS_OVER_N)}, frame,
                            {"p": 0.7, "n": 2000},
                            {"p": "agreement p between bias and disease", "n": "training images n"})


def stored_dots(rows: Mapping[str, str], xlabel: str, chapter: str = "02",
                references: Mapping[str, float] | None = None) -> plotting.Figure:
    """Stored runs of several claims, one row each, with 95% intervals over seeds; ``rows`` are labels and claim ids.

    ``references`` are lines to hold all of them against, by name; zero when left out.
    """
    verdicts = [claims.verdict(claims.find_claim(chapter, i)) for i in rows.values()]
    return plotting.dots({label: (v.mean, v.low, v.high) for label, v in zip(rows, verdicts, strict=True)},
                         {name: dict.fromkeys(rows, value) for name, value in (references or {"zero": 0.0}).items()},
                         xlabel)


def volumes_beside_slices() -> pd.DataFrame:
    """Stored runs at p = .7: networks on slices (means over seeds), and each network on volumes."""
    columns = ["aligned", "conflicting", "same", "decorrelated", "tpr_gap", "fpr_gap"]
    slices, rows = claims.stored_runs("02", "b_far_tpr"), {}
    for mark in ("far", "intensity"):
        rows[mark, f"slices, {len(slices)} seeds"] = [slices[f"{mark}_{column}"].mean() for column in columns]
        for _, run in claims.stored_runs("02", f"v_{mark}").iterrows():
            rows[mark, f"volumes, seed {run['seed']}"] = [run[f"p70_{column}"] for column in columns]
    return pd.DataFrame(rows, index=columns).T.astype(float).round(3)


def saliency_maps(maps: Mapping[str, np.ndarray]) -> plotting.Figure:
    """Mean saliency of several networks, each scaled so that its highest hundredth of pixels is white."""
    shown = [np.clip(m.mean(0) / np.quantile(m.mean(0), 0.99), 0, 1) for m in maps.values()]
    return pictures.image_grid(shown, list(maps), what="Mean saliency of each network (bright: matters more)")


# ---------------------------------------------------------------------- chapter 3
PUBLISHED = {"all": (86.0, 99.6), "component 0": (86.0, 70.1), "component 1": (50.9, 53.1), "component 2": (50.7, 97.2)}
"""Encoding in the last layer, accuracy in percent for disease and for the mark, by what is read (Stanley et al.,
eBioMedicine 2025; shape bias, five components, fitted and scored on the same images, 1,074 of them)."""


def channels(kept: Mapping[str, np.ndarray], most: int = 3) -> plotting.Figure:
    """The first channels of each block's activation for one image, each scaled to its own range."""
    shown = {}
    for block, activation in kept.items():
        for k, channel in enumerate(activation[:most]):
            low, high = channel.min(), channel.max()
            scaled = (channel - low) / max(high - low, 1e-12)
            times = max(1, 96 // len(channel))  # so that the pixels of a small one can be seen
            shown[f"{block}, channel {k}"] = np.kron(scaled, np.ones((times, times)))
    return pictures.image_grid(list(shown.values()), list(shown), what="Activations of one image", columns=most)


def component_explorer(nets: Mapping[str, nn.Module], data: Mapping[str, chapter_03.Halves],
                       most: int = 5) -> explore.Output:
    """Choose network, block and component: densities of the four groups along it, and the disease boundary.

    ``data`` are subjects with the mark of each network, by the network's name.
    """
    blocks = networks.block_names(next(iter(nets.values())))
    names = {(0, 0): "healthy, no mark", (0, 1): "healthy, mark", (1, 0): "sick, no mark", (1, 1): "sick, mark"}
    pcas = {(name, block): chapter_03.components(net, data[name], block) for name, net in nets.items()
            for block in blocks}
    most = min(most, *(pca.n_components for pca in pcas.values()))

    def frame(network: str, block: str, component: int) -> explore.Frame:
        pca, (mark, _, table, fit, score) = pcas[network, block], data[network]
        disease = table["disease"]
        along = pca.scores[:, [component]] / pca.scores[fit, component].std()
        found = {f"AUC for {what}": probing.individual(along, table[column], fit, score)["auc"].iloc[0]
                 for what, column in (("disease", "disease"), ("the mark", mark))}
        edge = probing.boundary(along, disease, fit, 0)
        groups = probing.densities(along[score, 0], disease[score], table[mark][score], 60)
        series = [plotting.Series(names[group], groups.index, groups[group]) for group in names]
        inside = groups.index[0] < edge < groups.index[-1]
        values = found | {"boundary": edge, "share of variance": pca.explained_variance_ratio[component]}
        return explore.Frame({k: float(v) for k, v in values.items()},
                             plotting.lines(series, "score in standard deviations", "density",
                                            mark=edge if inside else None, legend=True))

    return explore.explorer("Components of a block", {"network": list(nets), "block": list(blocks),
                                                      "component": list(range(most))}, frame,
                            {"network": next(iter(nets)), "block": blocks[-1], "component": 0},
                            {"network": "network", "block": "block", "component": "component"})


def stored_blocks(columns: Mapping[str, str], ylabel: str, ylim: tuple[float, float] | None = None) -> plotting.Figure:
    """Stored runs of chapter 3 over the blocks, means with 95% intervals over seeds; the last is ``pool``.

    ``columns`` are labels and names of results, with ``{}`` where the block stands.
    """
    blocks, runs = _blocks(), _layers()
    series = [_over_seeds(label, range(1, len(blocks) + 1), [runs[name.format(block)] for block in blocks])
              for label, name in columns.items()]
    return plotting.lines(series, f"block ({len(blocks)}: pool)", ylabel, ylim=ylim)


def stored_encoding() -> pd.DataFrame:
    """Stored runs of chapter 3: held-out AUC with half its 95% interval over seeds, by what is read, network, block."""
    rows, runs = {}, _layers()
    for mark in chapter_03.MARKS:
        for label, what in ((mark, "auc"), ("disease", "disease_auc")):
            for name in _readers(mark, ("untrained", *chapter_03.CARRIED)):
                ends = [claims.over_seeds(runs[f"{name}_{block}_{mark}_{what}"]) for block in _blocks()]
                rows[f"{mark} images", label, name] = [f"{mean:.2f} ± {high - mean:.2f}" for mean, _, high in ends]
    return pd.DataFrame(rows, index=_blocks()).T


def stored_components(mark: str, most: int = 3) -> plotting.Figure:
    """Stored runs of chapter 3, individual encoding: mean held-out AUC along each block's first components.

    By network and component (down) and block (across), for the disease and for a mark. Which side is sick, or marked,
    was fixed in the fitting half: a component that tells nothing stays at a half, or slightly below by chance.
    """
    runs = _layers()
    tables = {f"AUC for {label}": pd.DataFrame(
        {block.removeprefix("block"): {f"{name} {k}": runs[f"{name}_{block}_{mark}_{what}_auc_{k}"].mean()
                                       for name in _readers(mark, chapter_03.CARRIED) for k in range(most)}
         for block in _blocks()}) for label, what in (("disease", "disease"), (mark, "mark"))}
    return pictures.heatmaps(tables, "block", "component", 0.5, 1.0)


def published_beside_ours() -> pd.DataFrame:
    """Encoding in the last layer in percent: published, ours in the same form, ours on other patients.

    Ours are means of the stored runs, shape bias, on as many images with the same agreement.
    """
    runs, rows = claims.stored_runs("03", "i_pool"), {}
    labels = dict(zip(("disease", "mark"), ("disease", "morphology"), strict=True))
    for read, published in PUBLISHED.items():
        part = "pool" if read == "all" else f"pool_{read.removeprefix('component ')}"
        rows[read] = {}
        for (what, label), value in zip(labels.items(), published, strict=True):
            rows[read] |= {(what, "published"): value, (what, "ours"): 100 * runs[f"{part}_{label}_in_sample"].mean()}
            if read == "all":
                rows[read][what, "other patients"] = 100 * runs[f"pool_{label}_held_out"].mean()
    return pd.DataFrame.from_dict(rows, orient="index").round(1)


def audit_table(found: Mapping[str, float]) -> pd.DataFrame:
    """The published probe in each block: accuracy on the images it was fitted on and on other patients."""
    blocks = [name.removesuffix("_features") for name in found if name.endswith("_features")]
    rows = {block: [int(found[f"{block}_features"]), *(found[f"{block}_{label}_{where}"] for label in
                                                       ("morphology", "random") for where in ("in_sample", "held_out"))]
            for block in blocks}
    columns = ["features", "mark, same images", "mark, others", "random, same images", "random, others"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype({"features": int}).round(3)


def _blocks() -> tuple[str, ...]:
    return networks.block_names(networks.build())


def _layers() -> pd.DataFrame:
    """Stored runs of :func:`bias_tutorial.studies.chapter_03.layers`."""
    return claims.stored_runs("03", "c_random")


def _readers(mark: str, names: Sequence[str]) -> list[str]:
    """Networks that were read for a mark: all but those that were trained with another one only."""
    return [name for name in names if mark in (chapter_03.CARRIED.get(name) or chapter_03.MARKS)]
