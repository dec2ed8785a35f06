"""Exact components by the Gram matrix against scikit-learn's PCA: memory, time and agreement, over widths.

``python -m benchmarks.pca`` takes 1,000 images and up to 1,500,000 features, block 3 of the network of Stanley et al.
2025, and writes ``pca.json`` and ``pca.md``. Ours reads the matrix in slices from a seeded generator; for scikit-learn
the same matrix is put in memory first, up to the largest width for which it needs no more than 16 GiB. The seconds do
not count the making of the matrix on either side. Every run has a process of its own, whose memory is read off Linux.
They take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .report import command_line, finish, opening, with_load

ROOT = Path(__file__).parent.parent
IMAGES, WIDTHS, KEEP = 1_000, (50_000, 150_000, 1_500_000), 0.99
SLICE = 65_536  # features
GIB = 2**30
MOST_MEMORY = 16 * GIB  # that scikit-learn may take
COPIES = 6.5  # of its matrix that scikit-learn then holds; 6.3 at 50,000 features
LEAST_TIMES, LARGEST_EXTRA, LARGEST_ERROR = 8, 2 * GIB, 1e-4
REPEATED = 50_000  # wider ones are run once: scikit-learn takes minutes


# ---------------------------------------------------------------------- the matrix
def slices(width, images):
    """Slices of features with a decaying spectrum about a mean, plus 0.5% of noise; the same in every process."""
    parts = np.random.default_rng(0).standard_normal((images, 128), dtype=np.float32)
    parts *= (0.96 ** np.arange(128)).astype(np.float32)
    for start in range(0, width, SLICE):
        rng, size = np.random.default_rng([1, start]), min(SLICE, width - start)
        made = np.empty((images, size), dtype=np.float32)
        np.matmul(parts, rng.standard_normal((128, size), dtype=np.float32), out=made)
        made += rng.standard_normal(size, dtype=np.float32)
        for rows in np.array_split(made, 20):  # the noise of some rows at a time: it is not to count as memory
            rows += 0.25 * rng.standard_normal(rows.shape, dtype=np.float32)
        yield made
        del made


class Timed:
    """Iterates over something and adds up the seconds that it takes to make."""

    def __init__(self, source):
        self.source, self.seconds = iter(source), 0.0

    def __iter__(self):
        return self

    def __next__(self):
        begin = time.perf_counter()
        try:
            return next(self.source)
        finally:
            self.seconds += time.perf_counter() - begin


# ---------------------------------------------------------------------- one run, in its own process
def memory(what):
    """``VmRSS`` (now) or ``VmHWM`` (the most so far) of this process, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(what))) * 1024


def ours(width, images):
    from bias_tutorial.probing import GramPCA, gram

    GramPCA.fit(gram(slices(1_000, 100)), np.arange(100))  # warm-up
    before, begin, source = memory("VmRSS"), time.perf_counter(), Timed(slices(width, images))
    found = GramPCA.fit(gram(source), np.arange(images), KEEP)
    whole = time.perf_counter() - begin
    measured = {"seconds": whole - source.seconds, "seconds_with_source": whole, "extra": memory("VmHWM") - before}
    return measured, found.explained_variance, found.scores


def theirs(width, images, dtype=np.float32):
    from sklearn.decomposition import PCA

    PCA(KEEP).fit_transform(np.concatenate(list(slices(1_000, 100)), axis=1))  # warm-up
    before = memory("VmRSS")
    matrix = np.empty((images, width), dtype)
    place = 0
    for part in slices(width, images):
        matrix[:, place:place + part.shape[1]] = part
        place += part.shape[1]
    begin, model = time.perf_counter(), PCA(KEEP)
    scores = model.fit_transform(matrix)
    return {"seconds": time.perf_counter() - begin, "extra": memory("VmHWM") - before,
            "solver": model._fit_svd_solver}, model.explained_variance_, scores


SIDES = {"ours": ours, "scikit-learn": theirs, "float64": lambda *given: theirs(*given, dtype=np.float64)}


def run(side, width, images, folder):
    """What a side measured in a process of its own; its components stay in the folder."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.pca", "--side", side, str(width), str(images), folder],
                          cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    print(f"  {side}, {width:,} features: {found['seconds']:.1f} s, {found['extra'] / GIB:.2f} GiB", flush=True)
    return found


def agreement(folder, side, width):
    """Largest relative distance of variances and of scores, each component by its own size, to ours."""
    a, b = (np.load(Path(folder) / f"{name}-{width}.npz") for name in ("ours", side))
    if a["scores"].shape != b["scores"].shape:
        return {"components": [a["scores"].shape[1], b["scores"].shape[1]], "variance": np.inf, "scores": np.inf}
    signs = np.sign((a["scores"] * b["scores"]).sum(axis=0))
    apart = np.linalg.norm(a["scores"] - signs * b["scores"], axis=0) / np.linalg.norm(a["scores"], axis=0)
    return {"components": a["scores"].shape[1], "variance": float(np.abs(b["variance"] / a["variance"] - 1).max()),
            "scores": float(apart.max())}


# ---------------------------------------------------------------------- all of it
def measure(widths=WIDTHS, images=IMAGES, repeats=3, most_memory=MOST_MEMORY):
    """Both curves over the widths, and the agreement; see ``targets`` for the verdicts."""
    fits = int(most_memory / (COPIES * 4 * images)) // 10_000 * 10_000
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width in sorted({*widths, fits} if fits < max(widths) else widths):
            sides = ("ours", "scikit-learn") if width <= fits else ("ours",)
            turns = [{side: run(side, width, images, folder) for side in sides}
                     for _ in range(repeats if width <= REPEATED else 1)]
            row = {"width": width} | {side: median([turn[side] for turn in turns]) for side in sides}
            if width <= fits:
                row["times_faster"] = row["scikit-learn"]["seconds"] / row["ours"]["seconds"]
                row["agreement"] = agreement(folder, "scikit-learn", width)
            rows.append(row)
        exact = run("float64", min(widths), images, folder) | agreement(folder, "float64", min(widths))
    return {"images": images, "keep": KEEP, "widths": rows, "float64": exact | {"width": min(widths)},
            "cores": os.cpu_count(), "versions": {name: version(name) for name in ("numpy", "scikit-learn")}}


def median(runs):
    """Median seconds and most memory of the runs of one side."""
    seconds = {key: statistics.median(r[key] for r in runs) for key in runs[0] if key.startswith("seconds")}
    return runs[0] | seconds | {"extra": max(r["extra"] for r in runs), "runs": len(runs)}


def targets(results):
    """Each target with what was measured: (what, measured, bound, met)."""
    images, rows = results["images"], results["widths"]
    widest, both = rows[-1], [row for row in rows if "times_faster" in row]
    where = f"{images:,} images x {{:,}} features"
    extra, times = widest["ours"]["extra"], both[-1]["times_faster"]
    found = [(f"GiB of additional memory, {where.format(widest['width'])}", extra / GIB,
              f"below {LARGEST_EXTRA / GIB:g}", extra < LARGEST_EXTRA),
             (f"times faster than scikit-learn, {where.format(both[-1]['width'])}", times, f"at least {LEAST_TIMES}",
              times >= LEAST_TIMES)]
    for key, what in (("variance", "explained variance"), ("scores", "scores")):
        worst = max(row["agreement"][key] for row in both)
        found += [(f"largest relative distance of {what} to scikit-learn{note}", value, f"below {LARGEST_ERROR:g}",
                   value < LARGEST_ERROR)
                  for note, value in (("", worst), (" in float64", results["float64"][key]))]
    return found


def report(results):
    lines = opening("Last measurement of exact components", "benchmarks.pca", targets(results))
    lines += ["", "| Features | Ours, s | scikit-learn, s | Ratio | Ours, GiB | scikit-learn, GiB, with its matrix |",
              "|---|---|---|---|---|---|"]
    for row in results["widths"]:
        us, them = row["ours"], row.get("scikit-learn")
        cells = (us["seconds"], them and them["seconds"], row.get("times_faster"), us["extra"] / GIB,
                 them and them["extra"] / GIB)
        lines.append(f"| {row['width']:,} | " + " | ".join("-" if c is None else f"{c:.3g}" for c in cells) + " |")
    solver = next(row["scikit-learn"]["solver"] for row in results["widths"] if "scikit-learn" in row)
    lines += ["", f"{results['images']:,} images, {results['keep']:.0%} of the variance kept. The solver that "
              f"scikit-learn chooses for these shapes is `{solver}`. {results['cores']} cores; load before and after "
              f"{results['load'][0]:.1f} and {results['load'][1]:.1f}; "
              f"{', '.join(f'{name} {found}' for name, found in results['versions'].items())}."]
    return lines


def main():
    parser = command_line("pca", __doc__)
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side, width, images, folder = given.side
        found, variance, scores = SIDES[side](int(width), int(images))
        np.savez(Path(folder) / f"{side}-{width}.npz", variance=variance, scores=scores)
        print(json.dumps(found))
        return
    results = with_load(measure, *((2_000, 8_000, 30_000), 400, 1, 100 * 2**20) if given.short else ())
    finish("pca", results, report(results), targets(results), keep=not given.short)


if __name__ == "__main__":
    main()
