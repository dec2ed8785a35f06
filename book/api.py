"""The page of the package's functions: what chapters use, from the docstrings, with a link to where it is first met.

Everything is read as text: nothing is imported, so the page belongs to this copy of the package and to no installed
one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import NumpyDocstring

PACKAGE = "bias_tutorial"
SHEET = "Check yourself"
"""Heading below which a chapter links to its graded sheet."""
NAPOLEON = Config(napoleon_use_param=True, napoleon_use_rtype=False, napoleon_use_ivar=True)


@dataclass(frozen=True)
class Place:
    """Where a chapter first uses a function."""

    page: str  # such as chapters/01_simulate_bias
    title: str
    heading: str

    @property
    def link(self) -> str:
        """Address of the section, seen from the top folder of the book."""
        return f"{self.page}.html#{nodes.make_id(self.heading)}"


@dataclass(frozen=True)
class Entry:
    """A public function or class as a chapter names it."""

    name: str
    node: ast.FunctionDef | ast.ClassDef = field(compare=False)
    place: Place

    @property
    def module(self) -> str:
        """The part of the name before the last point."""
        return self.name.rpartition(".")[0]

    @property
    def short(self) -> str:
        """The name without the package's."""
        return self.name.removeprefix(f"{PACKAGE}.")


# ---------------------------------------------------------------------- what chapters use
def used(root: Path, pages: dict[str, dict], sheets: dict[str, dict] | None = None) -> list[Entry]:
    """Every public function and class of the package that the notebooks name, in the order in which they first do.

    Parameters
    ----------
    root : path
        Folder of the repository.
    pages : dict of str to notebook
        Notebooks by the name of their page, in the order of the book.
    sheets : dict of str to notebook, optional
        Graded sheets by the name of the page that links to them. What only they name belongs to that page's section
        ``SHEET``; what checks the answers is left out.
    """
    entries: dict[str, Entry] = {}
    places = [(Place(page, title, heading), name) for page, notebook in pages.items()
              for title, heading, name in named(notebook)]
    titles = {place.page: place.title for place, _ in places}
    places += [(Place(page, titles[page], SHEET), name) for page, notebook in (sheets or {}).items()
               for _, _, name in named(notebook)]
    for place, name in places:
        found = resolve(root, name)
        if found and found[0] not in entries and not found[0].startswith(f"{PACKAGE}.classroom."):
            entries[found[0]] = Entry(*found, place)
    return list(entries.values())


def named(notebook: dict) -> Iterator[tuple[str, str, str]]:
    """Every dotted name below the package in a notebook, with the notebook's title and the heading above."""
    title = heading = ""
    imported: dict[str, str] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            headings = headings_of(source)
            title = title or (headings[0] if headings else "")
            heading = headings[-1] if headings else heading
        elif cell["cell_type"] == "code":
            for name in named_in(source, imported):
                yield title, heading, name


def headings_of(markdown: str) -> list[str]:
    """Headings of a Markdown text as plain words, outside of fences."""
    outside = re.sub(r"^(```+|:::+).*?^\1", "", markdown, flags=re.S | re.M)
    return [re.sub(r"[*`]", "", found[1]).strip() for found in re.finditer(r"^#{1,6} (.+)$", outside, re.M)]


def named_in(source: str, names: dict[str, str]) -> list[str]:
    """Dotted names below the package that a code cell uses; `names` keeps what the cells before it have imported."""
    code = "\n".join(re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in source.splitlines())
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else PACKAGE
                          for alias in node.names if alias.name.partition(".")[0] == PACKAGE})
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    for node in sorted((n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute | ast.Name)),
                       key=lambda n: (n.lineno, n.col_offset, -n.end_col_offset)):
        dotted = ast.unparse(node)
        first, _, rest = dotted.partition(".")
        if first in names and re.fullmatch(r"[\w.]+", dotted):
            found.append(f"{names[first]}.{rest}".rstrip("."))
    return found


# ---------------------------------------------------------------------- where it is defined
@cache
def parsed(path: Path) -> ast.Module:
    """A source file, read once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def file_of(root: Path, module: str) -> Path | None:
    """The file of a module of the package, if there is one."""
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def resolve(root: Path, name: str) -> tuple[str, ast.FunctionDef | ast.ClassDef] | None:
    """The public function or class that a dotted name (or its start) means, under the name that a chapter imports."""
    parts = name.split(".")
    for k in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:k])
        if file_of(root, module):
            node = definition(root, module, parts[k])
            return (".".join(parts[: k + 1]), node) if node is not None and not parts[k].startswith("_") else None
    return None


def definition(root: Path, module: str, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    """The definition of a name of a module, also where the module only imports it from another one of the package."""
    path = file_of(root, module)
    if path is None:
        return None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                    source = ".".join([*above, *([node.module] if node.module else [])])
                    ours = source.startswith(PACKAGE) and source != module  # `from . import part` names a module
                    return definition(root, source, alias.name) if ours else None
    return None


# ---------------------------------------------------------------------- the page
def signature(node: ast.FunctionDef, method: bool = False) -> str:
    """The arguments with their defaults and what comes back, as in the source."""
    arguments = ast.unparse(node.args)
    if method:
        arguments = re.sub(r"^(?:self|cls)(?:, )?", "", arguments)
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def described(node: ast.AST) -> list[str]:
    """A docstring as reStructuredText; the star of a shape such as (n, *space) starts no emphasis."""
    parts = re.split(r"(``.*?``)", ast.get_docstring(node) or "")
    text = "".join(part if part.startswith("``") else re.sub(r"(?<=, )\*(?=\w)", r"\\*", part) for part in parts)
    return str(NumpyDocstring(text, NAPOLEON)).splitlines()


def fields_of(node: ast.ClassDef) -> str:
    """How an object of the class is made: the arguments of ``__init__``, or the fields of a dataclass."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return signature(part, method=True).partition(" -> ")[0]
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return ""
    given = [part for part in node.body if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part)]
    return f"({', '.join(ast.unparse(part).replace(' = ', '=') for part in given)})"


def directive(entry: Entry) -> list[str]:
    """One function or class in reStructuredText, with the link to the chapter that introduces it."""
    node, place = entry.node, entry.place
    kind, form = ("class", fields_of(node)) if isinstance(node, ast.ClassDef) else ("function", signature(node))
    lines = [f".. py:{kind}:: {entry.name}{form}", ""]
    where = place.title if place.heading == place.title else f"{place.title}, section “{place.heading}”"
    body = [*described(node), "", f"First used in `{where} <{place.link}>`__.", ""]
    lines += [f"   {line}".rstrip() for line in body]
    if kind == "class":
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part):
                made = {ast.unparse(decorator) for decorator in part.decorator_list}
                what = "property" if made & {"property", "cached_property"} else "method"
                form = "" if what == "property" else signature(part, method="staticmethod" not in made)
                lines += [f"   .. py:{what}:: {part.name}{form}", ""]
                lines += [f"      {line}".rstrip() for line in described(part)] + [""]
    return lines


def page(root: Path, entries: list[Entry]) -> str:
    """All entries by module, as MyST Markdown."""
    text = []
    for module in sorted({entry.module for entry in entries}):
        summary = (ast.get_docstring(parsed(file_of(root, module))) or "").partition("\n\n")[0].replace("\n", " ")
        text += [f"## `{module.removeprefix(f'{PACKAGE}.')}`", "", "````{eval-rst}", summary, ""]
        for entry in sorted((e for e in entries if e.module == module), key=lambda e: e.name.lower()):
            text += directive(entry)
        text += ["````", ""]
    return "\n".join(text)


def introduced(entries: list[Entry], page: str) -> str:
    """One line for the end of a chapter: the functions that it uses first, each leading to its description."""
    here = [entry.short for entry in entries if entry.place.page == page]
    links = ", ".join(f"{{py:obj}}`{name} <{PACKAGE}.{name}>`" for name in sorted(here, key=str.lower))
    return f"**Functions first used here**, each with its description: {links}." if here else ""
