"""Repeat the runs behind the claims, and check what the chapters say against them.

python -m bias_tutorial.claims run 01 [--seeds 0:10] [--workers 2] [--full] [--update]
python -m bias_tutorial.claims short [01] [--update]
python -m bias_tutorial.claims check [EXECUTED_NOTEBOOK ...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .claims import Claim, chapters, find_claim, is_number, load_claims, show, verdict
from .experiments import PILOT_SEEDS, Store, check_seeds, code_digest, run_once, seed_range, sweep
from .simulate.brain import torch_threads

FAMILY_WISE = 0.01  # chance that any live number of the whole book falls outside its prediction interval
WORK = Path("build") / "claims"  # where repeated runs are kept, below the current folder; not under version control


def prediction_interval(values: Iterable[float], comparisons: int) -> tuple[float, float]:
    """Where one more seed's value falls, with a chance of 1% to be wrong in any of so many comparisons.

    Two-sided, for a normal quantity: mean +- t sd sqrt(1 + 1/n), with the level shared out by Bonferroni.
    """
    values = np.asarray(list(values), dtype=float)
    n = len(values)
    t = stats.t.ppf(1 - FAMILY_WISE / (2 * max(comparisons, 1)), n - 1)
    half = float(t * values.std(ddof=1) * math.sqrt(1 + 1 / n)) + 1e-9 * max(1.0, abs(values.mean()))
    return float(values.mean()) - half, float(values.mean()) + half


def live_problems(chapter: str, results: Mapping[str, Any], parameters: Mapping[str, Any],
                  comparisons: int | None = None) -> list[str]:
    """Find recorded results of a chapter that do not fit the stored runs of the claim they are linked to.

    Parameters
    ----------
    chapter : str
        Such as ``'01'``.
    results, parameters : dict
        What the executed chapter recorded, and the values of its parameters cell.
    comparisons : int, optional
        Comparisons in the whole book; default counted from the claims files.
    """
    comparisons = comparisons or sum(bool(claim.live) for c in chapters() for claim in load_claims(c))
    problems = []
    for claim in (claim for claim in load_claims(chapter) if claim.live):
        name, links = claim.live["recorded"], claim.live["parameters"]
        other = [f"{p} is {parameters.get(p)!r}, stored {claim.settings[s]!r}" for p, s in links.items()
                 if parameters.get(p) != claim.settings[s]]
        if name not in results:
            problems.append(f"claim '{claim.id}': the chapter recorded no '{name}'")
        elif other:
            problems.append(f"claim '{claim.id}': '{name}' was run at other settings ({'; '.join(other)})")
        elif not is_number(results[name]):
            problems.append(f"claim '{claim.id}': '{name}' is {results[name]!r}, expected a number")
        else:
            low, high = prediction_interval(verdict(claim).values, comparisons)
            if not low <= results[name] <= high:
                problems.append(f"claim '{claim.id}': the chapter measured {name} = {show(results[name])}, but the "
                                f"stored runs predict {show(low)} to {show(high)}")
    return problems


# ---------------------------------------------------------------------- repeat
def repeat(chapter: str, seeds: Iterable[int] | None = None, workers: int = 2, full: bool = False,
           update: bool = False, folder: str | os.PathLike = WORK, scheduler: str | None = None) -> bool:
    """Run what the claims of a chapter state again, beside the stored runs, and compare the verdicts.

    Parameters
    ----------
    chapter : str
        Such as ``'01'``.
    seeds : iterable of int, optional
        At least two; default the seeds of each claim. Pilot seeds (900 and above) are shown, never counted or stored.
    workers : int
        Processes.
    full : bool
        Also the claims marked ``full``.
    update : bool
        Put the new runs in the place of the stored ones; all seeds of the claims are needed.
    folder : path-like
        Where the new runs are kept; a second call continues there, unless the code of a measure has changed.
    scheduler : str, optional
        Dask scheduler whose workers do the runs, see :func:`bias_tutorial.experiments.sweep`.

    Returns
    -------
    bool
        Whether every verdict is the stored one (always for pilot seeds and updates).
    """
    claims = [claim for claim in load_claims(chapter) if full or not claim.full]
    seeds = None if seeds is None else tuple(seeds)
    pilot = seeds is not None and min(check_seeds(seeds)) >= PILOT_SEEDS
    if seeds is not None and not pilot and len(seeds) < 2:
        raise ValueError("a verdict needs at least two seeds")
    if update and seeds is not None:
        raise ValueError("--update stores all seeds of the claims; leave --seeds out")
    jobs: dict[tuple, list[dict]] = {}
    for claim in claims:
        job = jobs.setdefault((claim.measure, seeds or claim.seeds, claim.store.name), [])
        if claim.settings not in job:
            job.append(dict(claim.settings))
    runs = sum(len(job) * len(key[1]) for key, job in jobs.items())
    print(f"Chapter {chapter}: {runs} runs for {len(claims)} claims; kept in {folder}, run again to continue.")
    _estimate(claims, runs, workers)
    same = True
    for (measure, wanted, _), settings in jobs.items():
        table = sweep(settings, measure, _working(measure, folder, chapter), wanted, workers=workers,
                      scheduler=scheduler)
        if pilot:
            print(table.drop(columns=[c for c in table if c.endswith("_interval")]).to_string())
    if pilot:
        return True
    for claim in claims:
        known = set(seeds or ()) <= set(claim.seeds)  # the same seeds are compared; fresh ones with all stored
        claim = replace(claim, seeds=seeds or claim.seeds)
        new = verdict(claim, Store(_working(claim.measure, folder, chapter)).rows())
        print(f"\n{claim.id}: {claim.statement}\n  now:    {new.sentence()}")
        if not update:
            old = verdict(claim) if known else verdict(find_claim(chapter, claim.id))
            print(f"  stored: {old.sentence()}")
            same &= new.holds == old.holds
    if update:
        store_short(chapter, folder)
    elif not same:
        print("\nA verdict differs from the stored one.")
    return same


def repeat_short(chapter: str) -> list[str]:
    """Run the short run of every claim again; give a sentence for each that left its tolerance of the stored one."""
    problems, now = [], {}
    for claim in load_claims(chapter):
        where = f"chapter {chapter}, claim '{claim.id}'"
        stored = {row["key"]: row["results"] for row in Store(claim.store).rows()}.get(claim.short_key)
        if stored is None:
            problems.append(f"{where}: its short run is not stored; run: python -m bias_tutorial.claims run {chapter} "
                            "--update")
            continue
        if claim.short_key not in now:
            with torch_threads(1):  # a few small networks: their sums may not depend on how many cores there are
                now[claim.short_key] = run_once(claim.measure, claim.short["settings"], claim.short["seed"])["results"]
        new, old = (results.get(claim.quantity) for results in (now[claim.short_key], stored))
        if not is_number(new) or not is_number(old) or abs(new - old) > claim.short["tolerance"]:
            problems.append(f"{where}: the short run gives {claim.quantity} = {new}, stored {old}, "
                            f"tolerance {claim.short['tolerance']}")
    return problems


def store_short(chapter: str, folder: str | os.PathLike = WORK) -> None:
    """Store the short runs of a chapter, which every test repeats, and whatever else was run again in ``folder``."""
    claims = load_claims(chapter)
    with torch_threads(1):
        for claim in claims:
            sweep(claim.short["settings"], claim.measure, _working(claim.measure, folder, chapter),
                  [claim.short["seed"]], workers=1, progress=False)
    _store(claims, Path(folder))


def _estimate(claims: list[Claim], runs: int, workers: int) -> None:
    """Say how long all runs took when they were stored."""
    rows = {row["key"]: row for claim in claims for row in Store(claim.store).rows()}
    if rows:
        mean = float(np.mean([row["seconds"] for row in rows.values()]))
        print(f"When they were stored, a run took {mean:.1f} s: about {mean * runs / workers / 60:.1f} minutes in all.")


def _working(measure: str, folder: str | os.PathLike, chapter: str) -> Path:
    """File of the new runs of a measure: another one for other code, so that old runs never pass for new ones."""
    return Path(folder) / f"{chapter}_{measure.partition(':')[2]}_{code_digest(measure)}.jsonl"


def _store(claims: list[Claim], folder: Path) -> None:
    """Replace the stored runs by the new ones, each file at once, in the order of claims and seeds."""
    for path, measure in {claim.store: claim.measure for claim in claims}.items():
        wanted = dict.fromkeys(key for claim in claims if claim.store == path for key in (*claim.keys, claim.short_key))
        lines = {}
        # The new runs win; those of claims that were left out stay.
        for file in (path, _working(measure, folder, claims[0].chapter)):
            if file.exists():
                lines |= {json.loads(line)["key"]: line for line in file.read_text(encoding="utf-8").splitlines()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write("".join(lines[key] + "\n" for key in wanted if key in lines))
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
        print(f"stored {sum(key in lines for key in wanted)} of {len(wanted)} runs in {path.name}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when all is well, 1 with a line for each fault otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bias_tutorial.claims", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="repeat the stored runs of a chapter and compare the verdicts")
    run.add_argument("chapter", help="such as 01, or all")
    run.add_argument("--seeds", type=seed_range, help='such as 0:10; 900:905 for pilot runs')
    run.add_argument("--workers", type=int, default=2)
    run.add_argument("--full", action="store_true", help="also the claims that take too long for every day")
    run.add_argument("--update", action="store_true", help="put the new runs in the place of the stored ones")
    short = commands.add_parser("short", help="repeat one short run of every claim")
    short.add_argument("chapter", nargs="?")
    short.add_argument("--update", action="store_true", help="store the short runs as they come out now")
    check = commands.add_parser("check", help="check every number in the prose")
    check.add_argument("notebooks", nargs="*", type=Path, help="executed chapters, to check what they recorded too")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            wanted = chapters() if options.chapter == "all" else [options.chapter]
            same = [repeat(c, options.seeds, options.workers, options.full, options.update) for c in wanted]
            return 0 if all(same) else 1
        if options.command == "short":
            wanted = [options.chapter] if options.chapter else chapters()
            for chapter in wanted if options.update else ():
                store_short(chapter)
            problems = [p for c in wanted for p in repeat_short(c)]
        else:
            from .sources import check_book

            problems = check_book(options.notebooks)
    except (ValueError, RuntimeError, OSError) as error:
        problems = [str(error)]
    print("\n".join(problems) or f"{options.command}: all is well.", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0
