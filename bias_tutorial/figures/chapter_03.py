"""Figures, tables and the explorer of chapter 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import nn

from .. import claims, explore, networks, pictures, plotting, probing
from ..studies import chapter_03
from .stored import over_seeds

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
    series = [over_seeds(label, range(1, len(blocks) + 1), [runs[name.format(block)] for block in blocks])
              for label, name in columns.items()]
    return plotting.lines(series, f"block ({len(blocks)}: pool)", ylabel, ylim=ylim)


def stored_encoding() -> pd.DataFrame:
    """Stored runs of chapter 3: held-out AUC with half its 95% interval over seeds, by what is read, network, block."""
    rows, runs = {}, _layers()
    for mark in chapter_03.MARKS:
        short = "shape" if mark == "morphology" else mark
        for label, what in ((short, "auc"), (f"disease, {short} images", "disease_auc")):
            for name in _readers(mark, ("untrained", *chapter_03.CARRIED)):
                ends = [claims.over_seeds(runs[f"{name}_{block}_{mark}_{what}"]) for block in _blocks()]
                rows[label, name] = [f"{mean:.2f}±{high - mean:.2f}".replace("0.", ".") for mean, _, high in ends]
    return pd.DataFrame(rows, index=_blocks()).T.rename_axis(index=["read", "network"])


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
    return pd.DataFrame.from_dict(rows, orient="index").map(lambda value: "" if np.isnan(value) else f"{value:.1f}")


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
