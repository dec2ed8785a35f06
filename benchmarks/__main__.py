"""Compare the simulator with the reference, in one run, and write what was measured.

``python -m benchmarks`` (or ``make bench``, which first makes the reference's environment) writes ``results.json`` and
``results.md`` beside this file. For volumes both sides use all cores, for slices one (both are faster so). They are
warmed up, take turns, and count by their medians. The exit code is 1 when a target is missed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from bias_tutorial import __version__
from bias_tutorial.scenario import preset
from bias_tutorial.simulate import brain, drawn_table, effects, render
from bias_tutorial.simulate.anatomy import Grid, region_mask, subject_modes, template
from bias_tutorial.simulate.brain import World, design
from bias_tutorial.simulate.deformation import compose, identity

from .report import finish, opening

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
VOLUME, SLICE, SLICES = (173, 211, 155), (112, 96), 2_000
SAMPLE = 40  # slices the reference is timed on; its time for all of them is scaled from these
FINE = 8  # squarings of the reference when it is to be exact
SCENARIO = preset("far")


class Reference:
    """The reference in its own process: one request at a time."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.process = subprocess.Popen([PYTHON, HERE / "reference.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)
        self.versions = self._read()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the reference stopped; its message stands above")
        return json.loads(line)

    def __call__(self, step, arrays, keep=False, **settings):
        given, made = self.folder / "given.npz", self.folder / "made.npz"
        np.savez(given, **arrays)
        request = {"step": step, "input": str(given), "output": str(made) if keep else None,
                   "threads": os.cpu_count(), **settings}
        self.process.stdin.write(json.dumps(request) + "\n")
        took = self._read()
        if not keep:
            return took
        with np.load(made) as file:
            return took, dict(file)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Fields:
    """The simulator's own velocity fields of a scenario, at the full resolution of a grid, for the reference."""

    def __init__(self, shape):
        self.grid = Grid(shape)
        self.modes = subject_modes(self.grid.millimetres(), SCENARIO.subject_modes)
        acting = {"severity": SCENARIO.disease_region}
        acting |= {f"{a.name}_strength": a.region for a in SCENARIO.attributes}
        with mock.patch.object(effects, "LATTICE_MM", 0.0):  # a lattice as fine as the grid
            self.local = {column: effects.region_field(name, self.grid) for column, name in acting.items()}
        self.mask = sum(region_mask(name, self.grid) for name in acting.values()) > 0

    def of(self, row):
        """Velocities ``(dimensions, *shape)`` of the subject and of the effects of one row, in voxels."""
        latents = row[[f"subject_{k + 1}" for k in range(SCENARIO.subject_modes)]].to_numpy(dtype=np.float32)
        subject = np.tensordot(self.grid.directions(), np.tensordot(latents, self.modes, axes=1), axes=1)
        effect = np.zeros_like(subject, dtype=np.float32)
        for column, field in self.local.items():
            assert field.step == 1
            effect[(slice(None), *field.box)] += np.float32(row[column]) * field.velocity.numpy()
        return subject.astype(np.float32), effect

    def request(self, row):
        subject, effect = self.of(row)
        return {"template": template(self.grid.shape), "mask": self.mask, "subject": subject, "effect": effect}


def timed(make):
    begin = time.perf_counter(), time.process_time()
    make()
    return {"wall": time.perf_counter() - begin[0], "cpu": time.process_time() - begin[1]}


def summary(ours, theirs):
    """Medians of both sides in seconds, and their ratio, also to a reference spared the steps that SimBA repeats."""
    values = {}
    for clock in ("wall", "cpu"):
        one, other = [t[clock] for t in ours], [t[clock] for t in theirs]
        spared = statistics.median([t[clock] - t["repeated"][clock] for t in theirs])
        mine, other_median = statistics.median(one), statistics.median(other)
        values[clock] = {"ours": mine, "reference": other_median, "times_faster": other_median / mine,
                         "times_faster_than_spared": spared / mine, "ours_all": one, "reference_all": other}
    return values


def volume_speed(reference, fields, repeats):
    meta = design(SCENARIO, 64, 0, VOLUME)
    rows = np.flatnonzero(drawn_table(meta)["morphology"] == 1)[: repeats + 1]
    ours, theirs = [], []
    for turn, row in enumerate(rows):
        theirs.append(reference("image", fields.request(drawn_table(meta).iloc[row])))
        ours += [timed(lambda row=row: render(meta, [row])) for _ in range(2 if turn else 3)][-2:]
        print(f"  volume, turn {turn}: reference {theirs[-1]['wall']:.1f} s, ours {ours[-1]['wall']:.2f} s", flush=True)
    return summary(ours[2:], theirs[1:])  # the first turn warms up


def slice_speed(reference, repeats):
    fields = Fields(SLICE)
    table = SCENARIO.draw(SAMPLE, 0)
    requests = [fields.request(row) for _, row in table.iterrows()]
    brain(SCENARIO, 200, 10_000, SLICE)
    for request in requests[:5]:
        reference("image", request, threads=1)
    ours, theirs = [], []
    for turn in range(repeats):
        took = [reference("image", request, threads=1) for request in requests]  # with more it is slower on slices
        theirs.append({c: SLICES / SAMPLE * sum(t[c] for t in took) for c in ("wall", "cpu")})
        theirs[-1]["repeated"] = {c: SLICES / SAMPLE * sum(t["repeated"][c] for t in took) for c in ("wall", "cpu")}
        ours.append(timed(lambda seed=turn: brain(SCENARIO, SLICES, seed, SLICE)))  # drawing the table included
        print(f"  slices, turn {turn}: reference {theirs[-1]['wall']:.0f} s (scaled), "
              f"ours {ours[-1]['wall']:.1f} s", flush=True)
    return summary(ours, theirs)


def displacement(world, row, sign=1.0, **changes):
    """Our displacement on the full grid, in voxels, for a row with some latents changed."""
    row = row.to_frame().T.assign(**changes)
    latents = [c for c in row if c in SCENARIO.latent_names]
    row[latents] = row[latents].astype(float) * sign
    return world.positions(row) - identity(world.grid.shape)


def accuracy(reference, fields, subjects):
    """Mean and largest distance, in voxels, to the reference's fine integration, and of inverses to nothing."""
    world = World(SCENARIO, fields.grid, "cpu")
    table = SCENARIO.draw(64, 0).query("morphology == 1")
    # The strongest effects, and the subjects furthest from the template: nothing easy is picked.
    strongest = (table["severity"].abs() + table["morphology_strength"].abs()).sort_values(ascending=False).index
    furthest = table["subject_norm"].sort_values(ascending=False).index
    picked = [i for pair in zip(strongest, furthest, strict=True) for i in pair][:subjects]
    inside = torch.from_numpy(template(fields.grid.shape) > 0)
    none = {f"subject_{k + 1}": 0.0 for k in range(SCENARIO.subject_modes)}
    no_effect = dict.fromkeys(fields.local, 0.0)
    rows = []
    for index in picked:
        row = table.loc[index]
        subject, effect = fields.of(row)
        # Images are read through the inverse deformations, so those are compared.
        _, exact = reference("integrate", {"subject": -subject, "effect": -effect}, keep=True, squarings=FINE)
        ours = {"subject": displacement(world, row, **no_effect), "effect": displacement(world, row, **none),
                "composed": displacement(world, row)}
        for name, moved in ours.items():
            expected = torch.from_numpy(np.ascontiguousarray(exact[name]))[None]
            error, size = (moved - expected).norm(dim=1)[0], expected.norm(dim=1)[0]
            rows.append(distance(f"end-point error, {name}", error, inside) | {"largest_displacement": size.max()})
        for name, fixed in (("subject", no_effect), ("effect", none)):
            rest = compose(ours[name], displacement(world, row, sign=-1.0, **fixed)).norm(dim=1)[0]
            rows.append(distance(f"inverse consistency, {name}", rest, inside))
        print(f"  accuracy: subject {row['image_id']} done", flush=True)
    measures = {}
    for name in dict.fromkeys(r["measure"] for r in rows):
        chosen = [r for r in rows if r["measure"] == name]
        measures[name] = {k: float(np.mean([r[k] for r in chosen])) for k in ("mean", "mean_brain")}
        measures[name] |= {k: float(np.max([r[k] for r in chosen]))
                           for k in ("max", "max_brain", "largest_displacement") if k in chosen[0]}
    return {"subjects": len(picked), "squarings_of_reference": FINE, "measures": measures}


def distance(name, error, inside):
    return {"measure": name, "mean": error.mean(), "max": error.max(), "mean_brain": error[inside].mean(),
            "max_brain": error[inside].max()}


def targets(results):
    """Each target with what was measured: (what, measured, bound, met)."""
    rows = []
    for key, what, bound in (("volume", f"times faster, one volume of {' x '.join(map(str, VOLUME))}", 25),
                             ("slices", f"times faster, {SLICES:,} slices of {SLICE[0]} x {SLICE[1]}", 10)):
        if key in results:
            value = results[key]["wall"]["times_faster"]
            rows.append((what, value, f"at least {bound}", value >= bound))
    for name, values in results.get("accuracy", {}).get("measures", {}).items():
        bound = 0.1 if name.startswith("end-point") else 0.05
        for where, key in (("whole grid", "mean"), ("inside the brain", "mean_brain")):
            rows.append((f"{name}, mean over the {where}, voxels".replace("the inside", "inside"), values[key],
                         f"below {bound}", values[key] < bound))
    return rows


def report(results):
    lines = opening("Last measurement", "benchmarks", targets(results))
    lines += ["", "| Seconds | Ours | Reference | Ratio | Ratio, reference spared what SimBA does twice |",
              "|---|---|---|---|---|"]
    for key in ("volume", "slices"):
        for clock, label in (("wall", "wall clock"), ("cpu", "processor")):
            if key in results:
                v = results[key][clock]
                lines.append(f"| {key}, {label} | {v['ours']:.3g} | {v['reference']:.3g} | {v['times_faster']:.1f} | "
                             f"{v['times_faster_than_spared']:.1f} |")
    if "accuracy" in results:
        lines += ["", "| Distance in voxels | Mean | Mean in the brain | Largest | Largest in the brain |",
                  "|---|---|---|---|---|"]
        lines += [f"| {name} | {v['mean']:.4f} | {v['mean_brain']:.4f} | {v['max']:.3f} | {v['max_brain']:.3f} |"
                  for name, v in results["accuracy"]["measures"].items()]
    m = results["machine"]
    lines += ["", f"{m['processor']}, {m['cores']} cores; load of the machine before and after {m['load'][0]:.1f} and "
              f"{m['load'][1]:.1f}. Python {m['python']}, torch {m['torch']}, bias_tutorial {m['bias_tutorial']}; "
              f"reference: SimpleITK {m['SimpleITK']}, ANTs {m['ANTs']}."]
    return lines


def processor():
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["volume", "slices", "accuracy"], help="measure this alone; writes nothing")
    parser.add_argument("--repeats", type=int, default=3, help="turns each side takes after the warm-up")
    given = parser.parse_args()
    if not PYTHON.exists():
        sys.exit("The reference has its own environment, which is not there yet: run `make bench`.")
    load = [os.getloadavg()[0]]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(folder)
        fields = None if given.only == "slices" else Fields(VOLUME)
        if given.only in (None, "volume"):
            results["volume"] = volume_speed(reference, fields, given.repeats)
        if given.only in (None, "accuracy"):
            results["accuracy"] = accuracy(reference, fields, subjects=given.repeats)
        del fields
        if given.only in (None, "slices"):
            results["slices"] = slice_speed(reference, given.repeats)
        reference.close()
    results["machine"] = {"processor": processor(), "cores": os.cpu_count(), "load": [*load, os.getloadavg()[0]],
                          "python": platform.python_version(), "torch": torch.__version__,
                          "bias_tutorial": __version__, **reference.versions}
    if results["machine"]["load"][0] > 0.5:
        print("The machine was busy before the run: repeat it on a quiet one before you quote it.")
    finish("results", results, report(results), targets(results), keep=given.only is None)


if __name__ == "__main__":
    main()
