"""Brain cohorts: a template deformed into subjects, with disease and bias of known strength.

Every image is ``template(exp(-effects)(exp(-subject)(x)))``: the effects (disease and morphology biases) are drawn in
the template and carried into the subject's own anatomy. Transporting a deformation ``g`` into a subject ``f`` by
conjugate action, ``f g f^-1`` (Lorenzi and Pennec 2013), and then applying it after ``f`` is the composition ``f g``:
so one warp does what SimBA does in two, without interpolating twice. Intensity biases come next, noise last (or before
them, see ``noise_order``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from ..cohort import Cohort, Schema
from ..scenario import MORPHOLOGY, Scenario, streams, whole
from .anatomy import TEMPLATE, Grid, subject_modes, template
from .deformation import SQUARINGS, exponential, identity, refine_axis, require_invertible, sample
from .effects import MM_PER_UNIT, LocalField, change_intensity, region_field

VERSION = 1  # of the simulated world: raised whenever the same meta would give other images
NOISE_ORDERS = ("last", "before_intensity")
SUBJECT_LATTICE_MM = 4.0  # subject variation is integrated on a lattice of about this spacing
_CHUNK_PIXELS = 350_000  # a batch that stays in the processor's cache is fastest


def brain(scenario: Scenario, n: int, seed: int, shape: tuple[int, ...] = (112, 96), noise: float = 0.03,
          noise_order: str = "last", workers: int = 1, stratify: bool = True, device: str = "cpu") -> Cohort:
    """Simulate a brain cohort.

    Parameters
    ----------
    scenario : Scenario
        The design.
    n : int
        Number of subjects, one image each.
    seed : int
        The one seed.
    shape : tuple of int
        ``(rows, columns)`` for an axial slice or ``(x, y, z)`` for a volume; every size shows the same view. The
        published volume is (173, 211, 155) (Stanley et al. 2023).
    noise : float
        Standard deviation of Gaussian image noise, in units of the intensity range; 0 for none.
    noise_order : {'last', 'before_intensity'}
        Whether noise is added after the intensity biases (so that its level gives no bias away) or before them.
    workers : int
        Processes. The images do not depend on it.
    stratify : bool
        See :meth:`Scenario.draw`; False only to show what goes wrong.
    device : str
        Torch device for the deformations. Bit-identical images are promised for one platform and device.

    Returns
    -------
    Cohort
        Images ``(n, 1, *shape)`` float32 in [0, 1]; target ``disease``; the scenario's attributes and latents.

    Raises
    ------
    ValueError
        For an unknown region, a bad size, or a deformation that is not invertible.
    """
    meta = design(scenario, n, seed, shape, noise, noise_order, stratify)
    table = drawn_table(meta)
    images = render(meta, range(len(table)), workers=workers, device=device)
    return Cohort(images, table.copy(), schema(scenario), meta=meta)


def design(scenario: Scenario, n: int, seed: int, shape: tuple[int, ...] = (112, 96), noise: float = 0.03,
           noise_order: str = "last", stratify: bool = True) -> dict[str, Any]:
    """What ``Cohort.meta`` of :func:`brain` holds, without any image; parameters and errors as there."""
    if not np.isfinite(noise) or noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    if noise_order not in NOISE_ORDERS:
        raise ValueError(f"noise_order must be one of {', '.join(NOISE_ORDERS)}, got '{noise_order}'")
    grid = Grid(shape)
    meta = {"simulator": "brain", "version": VERSION, "scenario": scenario.to_dict(), "n": whole(n, "n", least=1),
            "seed": whole(seed, "seed", least=0), "stratify": bool(stratify),
            "shape": list(grid.shape), "noise": float(noise), "noise_order": noise_order,
            "template": TEMPLATE, "affine": grid.affine.tolist(), "spacing": grid.spacing,
            "mm_per_unit": MM_PER_UNIT, "squarings": SQUARINGS, "counterfactual": {}}
    return {**meta, "balance": drawn_table(meta).attrs["balance"]}


def schema(scenario: Scenario) -> Schema:
    """The schema of a simulated brain cohort."""
    return Schema({"disease": tuple(range(len(scenario.class_shares)))},
                  {name: (0, 1) for name in scenario.attribute_names}, scenario.latent_names)


def drawn_table(meta: dict[str, Any]) -> pd.DataFrame:
    """The table of all subjects a cohort's ``meta`` stands for, counterfactual changes applied (not to be changed)."""
    keys = ("scenario", "n", "seed", "stratify", "counterfactual")
    return _drawn_table(json.dumps({k: meta[k] for k in keys}, sort_keys=True))


@lru_cache(maxsize=8)
def _drawn_table(design: str) -> pd.DataFrame:
    values = json.loads(design)
    scenario = Scenario.from_dict(values["scenario"])
    table = scenario.draw(values["n"], values["seed"], stratify=values["stratify"])
    potential = scenario.potential_strengths(values["n"], values["seed"])
    for name, carried in values["counterfactual"].items():
        table[name] = carried
        table[f"{name}_strength"] = potential[name] if carried else 0.0
    return table


def render(meta: dict[str, Any], rows, workers: int = 1, device: str = "cpu", chunk: int | None = None) -> np.ndarray:
    """Images of the given rows of :func:`drawn_table`.

    An image depends on ``meta`` and its own row alone: not on ``chunk``, ``workers``, threads, or which other rows are
    asked for.

    Parameters
    ----------
    meta : dict
        ``Cohort.meta`` of a simulated brain cohort.
    rows : iterable of int
        Rows of the drawn table, counted from 0.
    workers : int
        Processes.
    device : str
        Torch device.
    chunk : int, optional
        Images per batch; chosen by size if not given.

    Returns
    -------
    numpy.ndarray
        float32, shape ``(len(rows), 1, *shape)``, in [0, 1].
    """
    if meta["version"] != VERSION:
        raise ValueError(f"this cohort was made by version {meta['version']} of the simulated world, "
                         f"this is version {VERSION}: its images cannot be made again bit for bit")
    rows = np.asarray(list(rows), dtype=int)
    chunk = chunk or max(1, _CHUNK_PIXELS // int(np.prod(meta["shape"])))
    parts = [rows[k:k + chunk] for k in range(0, len(rows), chunk)]
    out = np.empty((len(rows), 1, *meta["shape"]), dtype=np.float32)
    if workers == 1:
        # Slices are too small to share out among threads: it costs more than it gains.
        threads = 1 if len(meta["shape"]) == 2 else torch.get_num_threads()
        results = (_render_chunk(meta, part, device, threads) for part in parts)
    else:
        results = Parallel(n_jobs=workers, return_as="generator")(
            delayed(_render_chunk)(meta, part, device, 1) for part in parts)
    place = 0
    for part, images in zip(parts, results, strict=True):
        out[place:place + len(part)] = images
        place += len(part)
    return out


class World:
    """What all images of one design share: template, modes of variation, fields of the effects.

    Parameters
    ----------
    scenario : Scenario
        Its subject modes, disease region and attributes; the class shares play no part.
    grid : Grid
        Of the images.
    device : str
        Torch device.
    """

    def __init__(self, scenario: Scenario, grid: Grid, device: str):
        self.grid, self.device = grid, device
        self.template = torch.from_numpy(template(grid.shape).copy()).to(device)
        # Subject variation is smooth: it is integrated on a coarse lattice with the same corners.
        ratio = max(1, round(SUBJECT_LATTICE_MM / grid.spacing))
        self.lattice = tuple((s - 1) // ratio + 1 for s in grid.shape)
        self.step = np.array([(s - 1) / (c - 1) for s, c in zip(grid.shape, self.lattice, strict=True)])
        points = grid.millimetres([np.arange(c) * h for c, h in zip(self.lattice, self.step, strict=True)])
        modes = np.einsum("da,ka...->kd...", grid.directions(), subject_modes(points, scenario.subject_modes))
        self.modes = torch.from_numpy((modes / self._per_axis(self.step)).astype(np.float32)).to(device)
        acting = {"severity": scenario.disease_region}
        acting |= {f"{a.name}_strength": a.region for a in scenario.attributes if a.kind == MORPHOLOGY}
        self.fields = _group_overlapping([(column, region_field(name, grid)) for column, name in acting.items()])
        self.intensity = [a for a in scenario.attributes if a.kind != MORPHOLOGY]

    def positions(self, rows: pd.DataFrame) -> torch.Tensor:
        """Where each pixel of the subjects' images is read in the template, ``(n, dimensions, *shape)``, in pixels."""
        return self._positions(*self._deformations(rows), slice(0, self.grid.shape[0]))

    def images(self, rows: pd.DataFrame, threads: int) -> torch.Tensor:
        """The template read at :meth:`positions`, shape ``(n, *shape)``."""
        images = torch.empty((len(rows), *self.grid.shape), device=self.device)
        deformations = self._deformations(rows)

        def read(layers):
            images[:, layers] = self._read_template(self._positions(*deformations, layers))

        # By runs of layers: what is in work stays in the processor's cache, and threads share out the runs.
        depth = max(1, _CHUNK_PIXELS // (len(rows) * int(np.prod(self.grid.shape[1:]))))
        runs = [slice(k, min(k + depth, self.grid.shape[0])) for k in range(0, self.grid.shape[0], depth)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, runs))
        return images

    def _deformations(self, rows: pd.DataFrame):
        """The subjects' positions, still on their lattice along the first axis, and the moves of the effects."""
        names = rows["image_id"].tolist()
        velocity = torch.zeros((len(rows), *self.modes.shape[1:]), device=self.device)
        for k, mode in enumerate(self.modes):  # one by one: a matrix product's last bits depend on the batch
            velocity -= self._column(rows, f"subject_{k + 1}") * mode
        subject = exponential(velocity)
        require_invertible(subject, names, "subject's deformation")
        step = torch.from_numpy(self._per_axis(self.step).astype(np.float32)).to(self.device)
        coarse = (identity(self.lattice, str(self.device)) + subject) * step
        for axis in reversed(range(3, coarse.ndim)):
            coarse = refine_axis(coarse, axis, self.grid.shape[axis - 2])
        moved = float((subject * step).abs().max())
        moves = []
        for fields, box in self.fields:
            local = torch.zeros((len(rows), self.grid.dimensions, *(b.stop - b.start for b in box)), device=self.device)
            for column, field in fields:
                inner = tuple(slice(f.start - b.start, f.stop - b.start) for f, b in zip(field.box, box, strict=True))
                local[(..., *inner)] -= self._column(rows, column) * field.velocity.to(self.device)
            local = exponential(local)
            require_invertible(local, names, "disease or bias deformation")
            moves.append((local, box, fields[0][1].step, moved))
            moved += fields[0][1].step * float(local.abs().max())
        return coarse, moves

    def _positions(self, coarse: torch.Tensor, moves: list, layers: slice) -> torch.Tensor:
        position = refine_axis(coarse, 2, self.grid.shape[0], layers)
        for move in moves:
            _move_on(position, *move, first=layers.start)
        return position

    def _read_template(self, position: torch.Tensor) -> torch.Tensor:
        n, first = position.shape[0], position.shape[2]
        if self.grid.dimensions == 2:
            return sample(self.template.expand(n, 1, *self.grid.shape), position)[:, 0]
        # grid_sample shares its work out by image: give it the layers of a volume as images of one layer each.
        layers = position.movedim(2, 1).flatten(0, 1).unsqueeze(2)
        read = sample(self.template.expand(n * first, 1, *self.grid.shape), layers)
        return read.reshape(n, *position.shape[2:])

    def _per_axis(self, values) -> np.ndarray:
        return np.asarray(values).reshape(-1, *(1,) * self.grid.dimensions)

    def _column(self, rows, name):
        values = torch.tensor(rows[name].to_numpy(dtype=np.float32), device=self.device)
        return values.reshape(-1, 1, *(1,) * self.grid.dimensions)


@lru_cache(maxsize=4)
def _world(scenario: str, shape: tuple[int, ...], device: str) -> World:
    return World(Scenario.from_dict(json.loads(scenario)), Grid(shape), device)


def _group_overlapping(fields: list[tuple[str, LocalField]]) -> list[tuple[list[tuple[str, LocalField]], tuple]]:
    """Group fields whose boxes overlap: their velocities add before integration; separate ones do not interact."""
    groups: list[tuple[list, tuple]] = []
    for item in fields:
        parts, box = [item], item[1].box
        for other in [g for g in groups if all(a.start < b.stop and b.start < a.stop
                                               for a, b in zip(g[1], box, strict=True))]:
            groups.remove(other)
            parts = other[0] + parts
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, other[1], strict=True))
        groups.append((parts, box))
    return groups


def _move_on(position: torch.Tensor, local: torch.Tensor, box: tuple[slice, ...], step: int, moved: float,
             first: int = 0) -> None:
    """Move every position on, in place, by the displacement ``local`` that lives on a box of a lattice, 0 outside.

    No position is further than ``moved`` from its own pixel, so only pixels that near to the box are looked at.
    ``first`` is the pixel along the first axis at which ``position`` begins.
    """
    shape = position.shape[2:]
    reach = int(np.ceil(moved)) + step + 1
    begins = (first, *(0,) * (len(shape) - 1))
    near = tuple(slice(max(b.start * step - reach - begin, 0), min(b.stop * step + reach - begin, s))
                 for b, s, begin in zip(box, shape, begins, strict=True))
    if near[0].start >= near[0].stop:
        return
    origin = torch.tensor([b.start for b in box], dtype=torch.float32, device=position.device)
    there = position[(..., *near)]
    on_lattice = there / step - origin.reshape(-1, *(1,) * len(shape))
    position[(..., *near)] = there + step * sample(local, on_lattice, outside="zeros")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch ``count`` threads inside this context, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _render_chunk(meta: dict[str, Any], rows: np.ndarray, device: str, threads: int) -> np.ndarray:
    table = drawn_table(meta).iloc[rows]
    # Torch's own threads wait for each other at every step, and badly so on a busy machine: ours share whole runs.
    with torch_threads(1):
        return _images(meta, rows, table, device, threads)


def _images(meta: dict[str, Any], rows: np.ndarray, table: pd.DataFrame, device: str, threads: int) -> np.ndarray:
    shape = tuple(meta["shape"])
    world = _world(json.dumps(meta["scenario"], sort_keys=True), shape, device)
    images = world.images(table, threads)
    stream = streams(meta["seed"])
    out = np.empty((len(rows), 1, *shape), dtype=np.float32)
    for k, (row, image) in enumerate(zip(rows, images, strict=True)):
        low, high = image.aminmax()
        image.sub_(low).div_(high - low)
        grain = None
        if meta["noise"]:
            grain = torch.from_numpy(stream("noise", int(row)).standard_normal(shape, dtype=np.float32)).to(device)
            grain *= meta["noise"]
        if grain is not None and meta["noise_order"] == "before_intensity":
            image.add_(grain).clamp_(0, 1)
        for attribute in world.intensity:
            if table[attribute.name].iloc[k]:
                strength = float(table[f"{attribute.name}_strength"].iloc[k])
                image = change_intensity(image, attribute.kind, strength, world.grid)
        if grain is not None and meta["noise_order"] == "last":
            image = image.add_(grain).clamp_(0, 1)
        out[k, 0] = image.cpu().numpy()
    return out
