"""Build the book: run the chapters, render them, check the pages.

    python book/build.py [--chapter 01]

Results land in ``book/_build``: ``executed/`` (notebooks with their outputs), ``html/`` and ``runtimes.json``. A
chapter runs again only when something it depends on changed; every page is rendered and checked each time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import api
import checks
import downloads
import execution
import nbformat
import parts
import running
import yaml
from execution import BuildError, Measured, cache_key, cached, execute, header, write_atomic

RECORD_MIME = "application/vnd.bias-tutorial+json"
COVER = "<!-- cover -->"  # where the first page shows the picture that cover.py draws
SHARED = ("_config.yml", "_toc.yml", "_ext", "_static")


@dataclass(frozen=True)
class Book:
    """Where things are, given the folder of the repository."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "book"

    @property
    def build(self) -> Path:
        return self.source / "_build"

    def pages(self) -> list[str]:
        """Every page of the table of contents, without suffix, in order."""
        toc = yaml.safe_load((self.source / "_toc.yml").read_text(encoding="utf-8"))
        entries = [entry for part in [toc, *toc.get("parts", [])] for entry in part.get("chapters", [])]
        return [toc["root"], *(entry["file"] for entry in entries)]

    def file(self, page: str) -> Path:
        """The source of a page: a notebook or a Markdown file."""
        for suffix in (".ipynb", ".md"):
            if (path := self.source / f"{page}{suffix}").exists():
                return path
        raise BuildError(f"book/_toc.yml names {page!r}, but there is no book/{page}.ipynb or book/{page}.md")

    def chapters(self) -> list[Path]:
        """The notebooks of the table of contents, in order."""
        return [path for path in map(self.file, self.pages()) if path.suffix == ".ipynb"]


def select(chapters: list[Path], wanted: str | None) -> list[Path]:
    """The chapters to run: all, or the one whose name starts with `wanted`."""
    if not wanted:
        return chapters
    chosen = [path for path in chapters if path.name.startswith(wanted)]
    if not chosen:
        raise BuildError(f"There is no chapter {wanted!r}. Chapters: {', '.join(path.stem for path in chapters)}")
    return chosen


def staged(notebook, measured: Measured | None, functions: str = ""):
    """A notebook as the page shows it: with the measured header under its title and without the recorded values.

    `functions` is a line on what it uses first; it stands before the references, or at the end.
    """
    first = notebook.cells[0]
    title, _, rest = first.source.partition("\n")
    if first.cell_type != "markdown" or not re.match(r"# \S", title):
        raise BuildError("The first cell of a chapter must be Markdown and start with its title, '# ...'")
    first.source = f"{title}\n\n{header(notebook, measured)}\n{rest}"
    if functions:
        last = notebook.cells[-1]
        if last.cell_type != "markdown":
            raise BuildError("The last cell of a chapter must be Markdown")
        before, heading, after = last.source.rpartition("\n## References")
        last.source = f"{before}\n{functions}\n{heading}{after}" if heading else f"{last.source}\n\n{functions}"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(RECORD_MIME, None)
        if "outputs" in cell:
            shown = ("display_data", "execute_result")
            cell.outputs = [out for out in cell.outputs if out.output_type not in shown or out.data]
    notebook.metadata.pop("widgets", None)
    # A kernel writes this down where it ran; without it, Sphinx takes the line `!pip ...` for broken Python.
    notebook.metadata.setdefault("language_info", {})["pygments_lexer"] = "ipython3"
    return notebook


def cover(book: Book) -> str:
    """The picture of the first page, drawn again only when something it depends on changed."""
    script, kept = book.source / "cover.py", book.build / "executed" / "cover.json"
    key = cache_key(book.root, script)
    if kept.exists() and (known := json.loads(kept.read_text(encoding="utf-8")))["key"] == key:
        return known["html"]
    env = {**os.environ, **execution.KERNEL_ENV}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env)
    if done.returncode or done.stderr.strip():
        raise BuildError(f"cover.py: {done.stderr[-2000:]}")
    write_atomic(kept, json.dumps({"key": key, "html": done.stdout}))
    return done.stdout


def stage(book: Book, measured: dict[str, Measured]) -> Path:
    """Copy the sources to ``_build/stage``, with each chapter's run in the place of its bare notebook."""
    target = book.build / "stage"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    bibliography = yaml.safe_load((book.source / "_config.yml").read_text(encoding="utf-8")).get("bibtex_bibfiles", [])
    for name in (*SHARED, *bibliography):
        source = book.source / name
        shutil.copytree(source, target / name) if source.is_dir() else shutil.copy(source, target / name)
    entries = parts.used(book) if "functions" in book.pages() else []
    for page in book.pages():
        source = book.file(page)
        out = target / source.relative_to(book.source)
        out.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            text = parts.filled(book, source.read_text(encoding="utf-8"))
            if COVER in text:
                text = text.replace(COVER, f"```{{raw}} html\n{cover(book).strip()}\n```")
            if running.PLACE in text:
                text = text.replace(running.PLACE, running.tables(book.source, book.chapters(), measured))
            out.write_text(text, encoding="utf-8")
            continue
        run = measured.get(source.stem)
        try:
            shown = book.build / "executed" / source.name if run else source
            notebook = staged(nbformat.read(shown, as_version=4), run, api.introduced(entries, page))
        except BuildError as error:
            raise BuildError(f"{source.name}: {error}") from None
        nbformat.write(notebook, out)
    return target


def render(book: Book, source: Path) -> Path:
    """Run Jupyter Book on the staged sources, from nothing, with every warning an error; returns the HTML folder."""
    html = book.build / "html"
    for folder in (html, book.build / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    # The entry point, not `-m`: `jupyter_book` has no __main__. Relative paths in _config.yml start at the stage.
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", ".",
               "--path-output", str(book.source), "-W", "--keep-going", "-q"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "_ext"})
    if done.returncode:
        shutil.rmtree(html, ignore_errors=True)  # a page of a failed build must not pass for a good one
        raise BuildError(f"Jupyter Book reports:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    for chapter in book.chapters():  # the download button hands out the notebook to work with, not the printed one
        shutil.copy(chapter, html / "_sources" / chapter.relative_to(book.source))
    downloads.notebooks(book)
    return html


def report(book: Book, measured: dict[str, Measured], fresh: set[str]) -> None:
    """Write ``runtimes.json`` and print how long each chapter took, how much memory, and where to open the book."""
    write_atomic(book.build / "runtimes.json", json.dumps([asdict(m) for m in measured.values()], indent=1))
    print(f"\n{'chapter':<28}{'seconds':>9}{'peak MiB':>10}")
    for name, run in measured.items():
        note = "" if name in fresh else "  (unchanged, from the cache)"
        print(f"{name:<28}{run.seconds:>9.1f}{run.peak_mib:>10.0f}{note}")
    print(f"\nOpen the book: {(book.build / 'html' / 'index.html').as_uri()}")


def check_claims(book: Book, chapters: list[Path]) -> None:
    """Tie every number in the prose to a stored value (``bias_tutorial.claims``); any other number stops the build."""
    done = subprocess.run([sys.executable, "-m", "bias_tutorial.claims", "check", *map(str, chapters)], cwd=book.root)
    if done.returncode:
        raise BuildError("A number in the prose is not backed by a run (see above).")


def build(book: Book, wanted: str | None = None) -> None:
    """Run, render and check; raises :class:`BuildError` at the first stage that fails."""
    chapters, executed = book.chapters(), book.build / "executed"
    chosen, measured, fresh = select(chapters, wanted), {}, set()
    for chapter in chapters:
        if chapter in chosen:
            print(f"{chapter.stem}: ", end="", flush=True)
            measured[chapter.stem], ran = execute(book.root, chapter, executed)
            fresh |= {chapter.stem} if ran else set()
            print(f"ran in {measured[chapter.stem].seconds:.0f} s" if ran else "nothing changed since its last run")
        elif known := cached(executed, chapter, cache_key(book.root, chapter)):
            measured[chapter.stem] = known
    html = render(book, stage(book, measured))
    faults = checks.check_pages(html, book.pages())
    if faults:
        raise BuildError("The pages are not right:\n" + "\n".join(faults))
    check_claims(book, [executed / path.name for path in chapters if path.stem in measured])
    report(book, measured, fresh)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when the book is built and right, 1 with the reason otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapter", help="run only the chapter whose file name starts so, such as 01")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        build(Book(options.root.resolve()), options.chapter)
    except BuildError as error:
        print(f"\nThe book was not built. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
