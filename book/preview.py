"""What a change does to the book: ``make preview BASE=main`` writes one page with old and new side by side.

    python book/preview.py BASE

The page, ``book/_build/preview/index.html``, lists the pages whose source or output differs from those at the git
reference BASE; every cell that differs shows the lines that changed and both outputs. It needs no other file and no
network. Pages whose inputs did not change are not run again; the outputs of BASE are kept by commit.
"""

from __future__ import annotations

import argparse
import difflib
import html
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import execution
import nbformat
from execution import BuildError, write_atomic

RECORDS = "application/vnd.bias-tutorial+json"
INPUTS = ("bias_tutorial", "data/samples", "requirements.txt", "pyproject.toml", "book/execution.py")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 1rem auto; padding: 0 1rem; }
body { color: #1a1a1a; background: #fff; }
pre { overflow: auto; padding: .5rem; background: #f4f4f4; font-size: 13px; }
.was { background: #fbe3e0; } .is { background: #dff2e1; } ins, del { text-decoration: none; display: block; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; } .pair > div { min-width: 0; }
iframe { width: 100%; height: 30rem; border: 1px solid #aaa; resize: vertical; } img { max-width: 100%; }
"""


@dataclass
class Change:
    """What differs on one page."""

    page: str
    what: str  # in words: new, removed, source, output
    parts: list[str] = field(default_factory=list)  # HTML, one a cell


# ---------------------------------------------------------------------- the two books
def git(root: Path, *arguments: str) -> bytes:
    """What a git command prints; its complaint as a BuildError."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True)
    if done.returncode:
        raise BuildError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def checked_out(root: Path, base: str, folder: Path) -> tuple[str, Path]:
    """The commit that `base` names, and a folder with its files, made once a commit."""
    commit = git(root, "rev-parse", "--verify", f"{base}^{{commit}}").decode().strip()
    target = folder / commit[:12]
    if not (target / ".whole").exists():
        with tarfile.open(fileobj=io.BytesIO(git(root, "archive", commit))) as archive:
            archive.extractall(target, filter="data")
        (target / ".whole").touch()
    return commit, target


@contextmanager
def package_of(root: Path) -> Iterator[None]:
    """Kernels started inside import the package of this folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def sources(root: Path) -> dict[str, Path]:
    """Pages of the book of a repository: name below ``book/`` and file. Exercises are sheets, no pages."""
    book = root / "book"
    found = [*book.glob("*.md"), *book.glob("*.ipynb"), *book.glob("chapters/[0-9][0-9]_*.ipynb")]
    names = {path.relative_to(book).as_posix(): path for path in sorted(found)}
    return {name: path for name, path in names.items() if not name.startswith("_build/")}


def outputs(root: Path, path: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with its outputs, run with the package beside it unless `folder` holds that run."""
    with package_of(root):
        execution.execute(root, path, folder)
    return nbformat.read(folder / path.name, as_version=4)


def same_inputs(root: Path, commit: str, name: str) -> bool:
    """Whether nothing that the outputs of a page depend on differs from the commit, new files included."""
    paths = [*INPUTS, f"book/{name}"]
    changed = git(root, "diff", "--name-only", commit, "--", *paths)
    return not changed and not git(root, "ls-files", "--others", "--exclude-standard", "--", *paths)


# ---------------------------------------------------------------------- comparing
def compare(root: Path, base: str, folder: Path | None = None) -> list[Change]:
    """Every page that differs from the book at `base`, with what differs."""
    folder = folder or root / "book" / "_build" / "preview"
    commit, old_root = checked_out(root, base, folder / "base")
    old, new = sources(old_root), sources(root)
    changes = []
    for name in dict.fromkeys([*new, *old]):
        if name not in old or name not in new:
            changes.append(Change(name, "new page" if name in new else "removed"))
        elif name.endswith(".md"):
            texts = (old[name].read_text(encoding="utf-8"), new[name].read_text(encoding="utf-8"))
            if texts[0] != texts[1]:
                changes.append(Change(name, "source", [difference(*texts)]))
        elif not same_inputs(root, commit, name):
            print(f"{name}: comparing", flush=True)
            before = outputs(old_root, old[name], folder / "runs" / commit[:12])
            after = outputs(root, new[name], root / "book" / "_build" / "executed")
            changes += compare_notebooks(name, before, after)
    return changes


def compare_notebooks(name: str, before, after) -> list[Change]:
    """The change of one notebook; none if sources and outputs are the same."""
    whats, parts = set(), []
    for old, new in paired(before.cells, after.cells):
        sources_ = [cell.source if cell else "" for cell in (old, new)]
        shown = [shown_outputs(cell) for cell in (old, new)]
        if sources_[0] == sources_[1] and shown[0] == shown[1]:
            continue
        part = ""
        if sources_[0] != sources_[1]:
            whats.add("source")
            part += difference(*sources_)
        if shown[0] != shown[1]:
            whats.add("output")
            part += f'<div class="pair"><div><h4>Before</h4>{shown[0] or "nothing"}</div>' \
                    f'<div><h4>After</h4>{shown[1] or "nothing"}</div></div>'
        parts.append(part)
    return [Change(name, " and ".join(sorted(whats, reverse=True)), parts)] if parts else []


def paired(before: list, after: list) -> Iterator[tuple]:
    """Cells that belong together: of the same source, or at the same place between two such; None: there is none."""
    old, new = ([f"{cell.cell_type}\n{cell.source}" for cell in cells] for cells in (before, after))
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from zip(before[a:b], after[c:d], strict=True)
            continue
        for k in range(max(b - a, d - c)):
            yield (before[a + k] if a + k < b else None, after[c + k] if c + k < d else None)


def shown_outputs(cell) -> str:
    """The outputs of a cell as HTML that depends on nothing beside it; recorded values and timings are left out."""
    parts = []
    for out in (cell or {}).get("outputs", []):
        data = {kind: value for kind, value in out.get("data", {}).items() if kind != RECORDS}
        if out.output_type == "stream":
            parts.append(f"<pre>{html.escape(out.text)}</pre>")
        elif "text/html" in data:
            page = f"<!doctype html><meta charset='utf-8'><body style='font-family:sans-serif'>{data['text/html']}"
            parts.append(f'<iframe sandbox="allow-scripts" title="output" srcdoc="{html.escape(page)}"></iframe>')
        elif "image/png" in data:
            parts.append(f'<img alt="output" src="data:image/png;base64,{data["image/png"].strip()}">')
        elif data:
            parts.append(f"<pre>{html.escape(str(data.get('text/plain', json.dumps(data))))}</pre>")
    return "".join(parts)


def difference(old: str, new: str) -> str:
    """The lines that changed, with three around them."""
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=3))[2:]
    tags = {"+": "ins class='is'", "-": "del class='was'"}
    shown = (f"<{tags[line[0]]}>{html.escape(line)}</{tags[line[0]][:3]}>" if line[0] in tags
             else f"{html.escape(line)}\n" for line in lines)
    return f"<pre>{''.join(shown)}</pre>"


# ---------------------------------------------------------------------- the page
def page(base: str, changes: list[Change]) -> str:
    """One HTML file that needs nothing beside it."""
    def anchor(change: Change) -> str:
        return re.sub(r"\W+", "-", change.page)

    listed = "".join(f'<li><a href="#{anchor(c)}">{html.escape(c.page)}</a>: {c.what}</li>' for c in changes)
    shown = "".join(f'<section><h2 id="{anchor(c)}">{html.escape(c.page)}: {c.what}</h2>{"<hr>".join(c.parts)}'
                    "</section>" for c in changes)
    title = f"What changes in the book against {html.escape(base)}"
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<style>{STYLE}</style></head><body>'
            f'<h1>{title}</h1><ul>{listed or "<li>Nothing: no page has another source or output.</li>"}</ul>'
            f"{shown}</body></html>")


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when the page is there, 1 with the reason otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a branch, tag or commit, such as main")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    try:
        changes = compare(root, options.base)
    except BuildError as error:
        print(f"\nThe preview was not made. {error}", file=sys.stderr)
        return 1
    target = root / "book" / "_build" / "preview" / "index.html"
    write_atomic(target, page(options.base, changes))
    print(f"{len(changes)} pages differ: {target.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
