"""The tables of the page on running: how long each chapter took, how much memory, and where it can be opened."""

from __future__ import annotations

from pathlib import Path

import nbformat
import yaml
from execution import Measured, minutes_to_read

PLACE = "<!-- run times -->"  # where book/running.md shows the tables
COLAB = "https://colab.research.google.com/github"
BINDER = "https://mybinder.org/v2/gh"
SHEETS = "exercises/student"  # below the folder of the book


def title(notebook) -> str:
    """The heading of a notebook's first cell."""
    return notebook.cells[0].source.partition("\n")[0].lstrip("# ").strip()


def launch(config: dict, path: str) -> str:
    """Links that open a notebook, given by its path below the book, in Colab and in Binder."""
    repository = config["repository"]
    slug, branch = repository["url"].removeprefix("https://github.com/"), repository["branch"]
    inside = f"{repository['path_to_book']}/{path}"
    return (f"[Colab]({COLAB}/{slug}/blob/{branch}/{inside}) · "
            f"[Binder]({BINDER}/{slug}/{branch}?urlpath=lab/tree/{inside})")


def tables(source: Path, chapters: list[Path], measured: dict[str, Measured]) -> str:
    """Both tables as Markdown: the chapters with what their last run took, and the graded sheets where there are any.

    ``source`` is the folder of the book, ``measured`` holds the runs of this build by the stem of the chapter.
    """
    config = yaml.safe_load((source / "_config.yml").read_text(encoding="utf-8"))
    rows = ["| Chapter | To read, min | To run, s | Memory, MiB | Open |", "|:---|---:|---:|---:|:---|"]
    for path in chapters:
        notebook, run = nbformat.read(path, as_version=4), measured.get(path.stem)
        name = path.relative_to(source).as_posix()
        took = f"{run.seconds:,.0f} | {run.peak_mib:,.0f}" if run else "not run in this build |"
        rows.append(f"| [{title(notebook)}]({name}) | {minutes_to_read(notebook)} | {took} | {launch(config, name)} |")
    text = "\n".join(rows)
    if runs := [measured[path.stem] for path in chapters if path.stem in measured]:
        cores = " or ".join(str(n) for n in sorted({run.cores for run in runs}))
        text += (f"\n\nMeasured on a machine with {cores} processor cores; all that were run took "
                 f"{sum(run.seconds for run in runs) / 60:.1f} minutes together.")
    sheets = sorted((source / SHEETS).glob("*.ipynb"))
    if sheets:
        text += "\n\n| Exercises | Open |\n|:---|:---|\n" + "\n".join(
            f"| {title(nbformat.read(path, as_version=4))} | {launch(config, path.relative_to(source).as_posix())} |"
            for path in sheets)
    return text
