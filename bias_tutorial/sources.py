"""Where the numbers in the prose come from, and the check that each says what its source says.

Sources that a tag may name (``<!-- =SOURCE -->``, see :mod:`bias_tutorial.prose`):

- ``key:curve(p=.7).tpr_gap``: the answer key; the functions are in ``KEY``, arguments are numbers or names;
- ``stored:01.worst_smd.mean``: a claim's verdict (k, n, mean, sd, low, high, min, max), or its null, margin and
  settings (``stored:02.n_500.settings.n_train``);
- ``run:auc`` in a chapter, ``run:01.auc`` elsewhere: what the chapter's last run recorded;
- ``param:N``: the notebook's parameters cell;
- ``code:evaluation.SMALLEST``: a constant of this package, in capitals;
- ``measured:book.minutes``: ``stored/measured.json``, times and sizes measured once;
- ``size:bias_tutorial/assets``: megabytes (10^6 bytes) of a file or folder of the repository;
- ``count:data/samples/bids .nii.gz``: files in a folder of the repository, at any depth, with this ending (or any).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from . import answer_key, scenario
from .claims import STORED, chapters, find_claim, is_number, read_notebook, recorded, verdict
from .claims_checks import live_problems
from .prose import Block, Numeral, blocks, numerals

ROOT = Path(__file__).resolve().parents[1]
FACTORS = (100, 1000, 0.001, 60, 1e6, 1e-6)  # units of measure; another factor could turn any number into any other
LARGEST_STEP = 0.2  # a number may be rounded to at most this share of itself
_NUMBER = r"\d*\.?\d+(?:e[-+]?\d+)?"
_TAG = re.compile(rf"(?P<minus>-?)(?P<kind>\w+):(?P<name>[^*~]+?)(?:\s*\*\s*(?P<factor>{_NUMBER}))?"
                  rf"(?:\s*~\s*(?P<step>{_NUMBER}))?", re.I)
_CALL = re.compile(r"(?P<function>\w+)\((?P<arguments>[^()]*)\)(?P<path>(?:\.\w+)*)")
_LINK = re.compile(r"\bdoi:|\barXiv |\bgithub\.com/")
# What a data card says of a set that others made; our own measurements stand in other paragraphs.
_FACTS = re.compile(r"(?ms)^\*(?:What|Source|Access|Who is missing|Why not [^*\n]+):?\*.*?(?=\n\n|\n\*[A-Z]|\Z)")
_BARE = ("7", ".205", "12,000 ", "45%", "45 %", "1e-4", "10 of 10", "3 to 4", "= 3", "of 12", "is .205", "was 7")


def _solve(preset="near", p=0.7, severity_noise=0.0, attribute_noise=0.0):
    design = scenario.preset(preset, p)
    sight = answer_key.Sight(severity_noise, dict.fromkeys(design.attribute_names, attribute_noise))
    return answer_key.solve(design, sight)


def _curve(p, preset="near", severity_noise=0.0, attribute_noise=0.0):
    design = scenario.preset(preset)
    sight = answer_key.Sight(severity_noise, dict.fromkeys(design.attribute_names, attribute_noise))
    return answer_key.shortcut_curve(p, design, sight)


KEY: dict[str, Callable] = {
    "solve": _solve,
    "curve": _curve,
    "marks": answer_key.marks_on_one_class,
    "tumours": answer_key.one_sided,
    "independence": answer_key.marginal_independence,
    "margin": answer_key.margin_ratio,
    "design": lambda preset="near", p=0.7: scenario.preset(preset, p),
    "logit": lambda p: float(np.log(p / (1 - p))),
    "shift": lambda dose: {"auc": answer_key.shift_auc(dose)},
    "prevalence": lambda pi, threshold=0.5: answer_key.prevalence_by_group({"group": pi}, threshold),
}


@dataclass(frozen=True)
class Sources:
    """What the tags of one page may name.

    Parameters
    ----------
    chapter : str, optional
        Such as ``'01'``; None for a page that is no chapter.
    parameters : dict
        The page's parameters cell.
    runs : dict
        Recorded results by chapter, of the chapters that were run; numbers from other runs cannot be compared.
    root : path
        Folder of the repository.
    """

    chapter: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    root: Path = ROOT

    def look_up(self, tag: str) -> tuple[float | None, float | None]:
        """Value of a tag and the step it was rounded to; the value is None where a chapter was not run.

        Raises
        ------
        ValueError
            For a tag that breaks the grammar or names nothing.
        """
        match = _TAG.fullmatch(tag.strip())
        if match is None:
            raise ValueError(f"the tag '{tag}' is not '=[-]SOURCE[*FACTOR][~STEP]'")
        factor = float(match["factor"] or 1)
        if match["factor"] and factor not in FACTORS:
            known = ", ".join(f"{f:g}" for f in FACTORS)
            raise ValueError(f"the factor {match['factor']} in '{tag}' is not one of {known}")
        read = getattr(self, f"_{match['kind']}", None)
        if match["kind"] not in ("key", "stored", "run", "param", "code", "measured", "size", "count") or read is None:
            raise ValueError(f"the tag '{tag}' names no known source")
        try:
            value = read(match["name"].strip())
        except (KeyError, AttributeError, TypeError, IndexError, ImportError, OSError) as error:
            raise ValueError(f"the tag '{tag}' names nothing that exists ({type(error).__name__}: {error})") from None
        if value is None and match["kind"] == "run":
            return None, None
        value = value.item() if isinstance(value, np.generic) else value
        if not is_number(value):
            raise ValueError(f"the source of '{tag}' is {value!r}, not a number")
        value *= factor * (-1 if match["minus"] else 1)
        step = float(match["step"]) if match["step"] else None
        if step and step > LARGEST_STEP * abs(value):
            raise ValueError(f"the step {match['step']} in '{tag}' is more than {LARGEST_STEP:.0%} of {value:g}")
        return value, step

    def _key(self, name):
        match = _CALL.fullmatch(name)
        if match is None or match["function"] not in KEY:
            raise KeyError(f"'{name}' is not FUNCTION(NAME=VALUE, ...).FIELD with one of {', '.join(KEY)}")
        pairs = [part.partition("=") for part in match["arguments"].split(",") if part.strip()]
        arguments = {k.strip(): float(v) if re.fullmatch(rf"\s*-?{_NUMBER}\s*", v) else v.strip() for k, _, v in pairs}
        return _walk(_solved(match["function"], tuple(arguments.items())), match["path"].split(".")[1:])

    def _stored(self, name):
        chapter, claim_id, *what = name.split(".")
        claim = find_claim(chapter, claim_id)
        return _walk(claim if what[0] in ("null", "margin", "settings") else verdict(claim), what)

    def _run(self, name):
        parts = name.split(".")
        chapter = parts.pop(0) if re.fullmatch(r"\d\d", parts[0]) else self.chapter
        if chapter is None:
            raise KeyError(f"'{name}' names no chapter")
        return _walk(self.runs[chapter], parts) if chapter in self.runs else None

    def _param(self, name):
        return self.parameters[name]

    def _code(self, name):
        module, _, constant = name.rpartition(".")
        if not constant.isupper() or constant.startswith("_"):
            raise KeyError(f"'{constant}' is not a public constant")
        return getattr(import_module(f"{__package__}.{module}"), constant)

    def _measured(self, name):
        return _walk(json.loads((STORED / "measured.json").read_text(encoding="utf-8")), name.split("."))

    def _size(self, name):
        return sum(file.stat().st_size for file in self._files(name)) / 1e6

    def _count(self, name):
        folder, _, ending = name.partition(" ")
        return sum(file.name.endswith(ending) for file in self._files(folder))

    def _files(self, name):
        path = (self.root / name).resolve()
        if not path.exists() or not path.is_relative_to(self.root.resolve()):
            raise KeyError(f"no file '{name}' in the repository")
        files = [f for f in path.rglob("*") if "__pycache__" not in f.parts] if path.is_dir() else [path]
        return [f for f in files if f.is_file()]


@lru_cache(maxsize=256)
def _solved(function, arguments):
    return KEY[function](**dict(arguments))


def _walk(value: Any, path: Sequence[str]) -> Any:
    """Follow public names, keys and positions from a value; a table of one row is that row."""
    for part in path:
        if part.startswith("_"):
            raise KeyError(f"'{part}' is private")
        if isinstance(value, pd.DataFrame):
            value = value[part] if part in value else value.loc[part]
        elif isinstance(value, pd.Series) and part.isdigit() and part not in value.index:
            value = value.iloc[int(part)]
        elif isinstance(value, pd.Series | Mapping):
            value = value[part]
        elif isinstance(value, list | tuple):
            value = value[int(part)]
        else:
            value = getattr(value, part)
    return value.iloc[0] if isinstance(value, pd.Series) and len(value) == 1 else value


# ---------------------------------------------------------------------- the check
@lru_cache(maxsize=4)
def structural_patterns(path: Path = STORED / "structural_numbers.yml") -> tuple[re.Pattern, ...]:
    """Read the reviewed list of numbers that state no result; each entry has a pattern with context and a reason."""
    patterns = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        if not isinstance(entry, Mapping) or set(entry) != {"pattern", "why"} or not str(entry["why"]).strip():
            raise ValueError(f"{path.name}: every entry needs 'pattern' and 'why', got {entry}")
        pattern = re.compile(entry["pattern"])
        bare = [text for text in _BARE if pattern.search(text)]
        if bare:
            raise ValueError(f"{path.name}: {entry['pattern']} has too little context, it matches {bare[0]!r}")
        patterns.append(pattern)
    return tuple(patterns)


def check_text(markdown: str, where: str, sources: Sources | None = None, line: int = 0) -> list[str]:
    """Faults of the numbers in a Markdown text, each a sentence with place, number, sentence and what is wrong.

    Parameters
    ----------
    markdown : str
        The text.
    where : str
        What to call it, such as ``'README.md'``.
    sources : Sources, optional
        What its tags may name; default no chapter, no parameters, no run.
    line : int
        Lines before the text.
    """
    sources = sources or Sources()
    return [f"{where}, line {block.line}: {fault}"
            for block in blocks(markdown, line) for fault in _faults(block, sources)]


def check_cards(markdown: str, where: str, sources: Sources | None = None) -> list[str]:
    """Faults of the numbers in data cards; see :func:`check_text`.

    Of a card that names its source by DOI, arXiv number or repository, the paragraphs on what the set is, where it
    comes from and who is missing are facts of that source. The others are checked like those of any page.
    """
    faults, line = [], 0
    for card in re.split(r"(?m)^(?=## )", markdown):
        text = _FACTS.sub(lambda match: "\n" * match[0].count("\n"), card) if _LINK.search(card) else card
        faults += check_text(text, where, sources, line)
        line += card.count("\n")
    return faults


def check_notebook(notebook: Any, where: str, sources: Sources) -> list[str]:
    """Faults of the numbers in the Markdown cells of a notebook; see :func:`check_text`."""
    return [fault for i, cell in enumerate(read_notebook(notebook)["cells"]) if cell["cell_type"] == "markdown"
            for fault in check_text("".join(cell["source"]), f"{where}, cell {i}", sources)]


def check_book(executed: Sequence[Path] = (), root: Path = ROOT) -> list[str]:
    """Faults of every number in chapters, quizzes, other pages, instructors' texts and the README, and of live results.

    Parameters
    ----------
    executed : sequence of path
        Chapters as they were run; only for these can recorded results be compared.
    root : path
        Folder of the repository.
    """
    ran = {path.name: path for path in map(Path, executed)}
    runs = {name[:2]: recorded(path) for name, path in ran.items()}
    faults = []
    others = other_pages(root)
    for path in (path for path in others if path.suffix == ".md"):
        text = path.read_text(encoding="utf-8")
        check = check_cards if path.parent == root / "data" else check_text
        faults += check(text, str(path.relative_to(root)), Sources(runs=runs, root=root))
    for path in sorted((root / "bias_tutorial" / "stored" / "quizzes").glob("*.json")):
        for number, question in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
            texts = [question["question"], *(a[part] for a in question["answers"] for part in ("answer", "feedback"))]
            here = Sources(path.stem, runs=runs, root=root)
            faults += [f for text in texts for f in check_text(text, f"quiz {path.name}, question {number}", here)]
    notebooks = [path for path in others if path.suffix == ".ipynb"]
    for path in sorted([*(root / "book" / "chapters").glob("[0-9][0-9]_*.ipynb"), *notebooks]):
        chapter, known = path.name[:2], parameters(ran.get(path.name, path))
        faults += check_notebook(path, str(path.relative_to(root)), Sources(chapter, known, runs, root))
        if path.name in ran and chapter in chapters():
            faults += [f"{path.relative_to(root)}: {fault}" for fault in live_problems(chapter, runs[chapter], known)]
        elif path.name not in ran:
            print(f"{path.name} was not run: what it records could not be compared.")
    return faults


def other_pages(root: Path) -> list[Path]:
    """Return the README, the data cards and every page of the book that is no chapter, in subfolders too.

    Folders whose name begins with an underscore hold what is built, and exercises are sheets, not pages.
    """
    book = root / "book"
    found = [root / "README.md", *root.glob("data/README.md"), *book.rglob("*.md"), *book.rglob("*.ipynb")]
    return sorted(path for path in found if not any(
        part.startswith(("_", ".")) or part in ("chapters", "exercises") for part in path.relative_to(root).parts[:-1]))


def parameters(notebook: Any) -> dict[str, Any]:
    """Plain values assigned in the parameters cell of a notebook (and in the one that papermill puts behind it)."""
    values: dict[str, Any] = {}
    for cell in read_notebook(notebook)["cells"]:
        if {"parameters", "injected-parameters"} & set(cell.get("metadata", {}).get("tags", ())):
            for node in ast.parse("".join(cell["source"])).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    try:
                        values[node.targets[0].id] = ast.literal_eval(node.value)
                    except ValueError:
                        continue  # an expression: nothing that prose may quote
    return values


def _faults(block: Block, sources: Sources) -> list[str]:
    found, faults, tagged = numerals(block), [], {}
    for position, tag in block.tags.items():
        owner = next((n for n in reversed(found) if n.end <= position), None)
        if owner is None or block.text[owner.end:position].strip(" )]\n\t"):
            faults.append(f"the tag '{tag}' stands behind no number")
        else:
            tagged[owner] = tag
    for numeral in found:
        start, end = block.sentence(numeral.start)
        problem = _wrong(numeral, tagged[numeral], sources) if numeral in tagged else \
            None if _explained(numeral, block, start, end, sources) else "has no source"
        if problem:
            faults.append(f"'{numeral.text}' {problem}: \"{' '.join(block.text[start:end].split())}\"")
    return faults


def _wrong(numeral: Numeral, tag: str, sources: Sources) -> str | None:
    try:
        value, step = sources.look_up(tag)
    except ValueError as error:
        return f"has a source that does not work, {error}"
    if value is None or numeral.says(value, step):
        return None
    decimals = max(0, -round(np.log10(numeral.unit))) if numeral.unit >= 1e-6 else 6
    right = f"{value * 100:.{decimals}f}%" if numeral.percent else f"{value:.{decimals}f}"
    return f"should be {right} (source {tag})"


def _explained(numeral: Numeral, block: Block, start: int, end: int, sources: Sources) -> bool:
    """Whether a number without a tag is a parameter, stands in a sentence that cites, or is on the reviewed list."""
    if any(match.start() <= numeral.start and numeral.end <= match.end()
           for pattern in structural_patterns() for match in pattern.finditer(block.text)):
        return True
    if any(start <= position < end for position in block.citations):
        return True
    if numeral.value is None or (abs(numeral.value) < 10 and numeral.value == int(numeral.value)):
        return False
    scale = 100 if numeral.percent else 1
    known = np.hstack([np.ravel(np.array(value, dtype=object)) for value in sources.parameters.values()] or [[]])
    return any(is_number(v) and abs(v * scale - numeral.value) < 1e-9 for v in known)
