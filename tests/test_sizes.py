"""Chapters take small sizes where memory is short, and say in one line what they took."""

from pathlib import Path

import nbformat
import pytest
import yaml

import bias_tutorial
from bias_tutorial import environment, sizes

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book" / "chapters").glob("[0-9][0-9]_*.ipynb"))


def cell_of(path):
    """The parameters cell of a chapter."""
    cells = nbformat.read(path, as_version=4).cells
    return next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))


def run(path, capsys):
    """Run the parameters cell of a chapter; its variables, and the one line that it printed."""
    scope = {"bias_tutorial": bias_tutorial}
    exec(cell_of(path), scope)  # noqa: S102 - the chapter's own cell
    line, rest = capsys.readouterr().out.split("\n", 1)
    assert rest == ""
    return scope, line


@pytest.fixture
def memory(monkeypatch):
    """Let the machine seem to have this many GiB of free memory; None: it does not tell."""
    monkeypatch.delenv("BIAS_TUTORIAL_BOOK", raising=False)
    return lambda gib: monkeypatch.setattr(
        environment, "memory", lambda: (None if gib is None else int(gib * environment.GIB), None))


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return request.param


def test_every_chapter_takes_its_small_sizes_only_where_memory_is_short(chapter, capsys, memory):
    memory(3.0)
    full, line = run(chapter, capsys)
    assert line == "Sizes: the book's; 3.0 GiB of memory are free."
    memory(2.9)
    small, line = run(chapter, capsys)
    wanted = sizes.small_sizes(chapter.stem)
    assert {name: small[name] for name in wanted} == wanted
    assert all(small[name] < full[name] for name in wanted)
    kept = full.keys() - wanted.keys() - {"__builtins__"}
    assert {name: small[name] for name in kept} == {name: full[name] for name in kept}
    assert line.startswith("Sizes: small ones, as only 2.9 GiB of memory are free (")
    assert all(f"{name} = {size}" in line for name, size in wanted.items()) and "differ from the text" in line


def test_the_book_is_built_with_the_sizes_that_stand_there(chapter, capsys, memory, monkeypatch):
    memory(0.5)
    monkeypatch.setenv("BIAS_TUTORIAL_BOOK", "1")
    scope, line = run(chapter, capsys)
    plain = {}
    exec("\n".join(cell_of(chapter).splitlines()[:-1]), plain)  # noqa: S102
    assert line == "Sizes: the book's." and all(scope[name] == value for name, value in plain.items()
                                                if name != "__builtins__")


def test_a_system_that_does_not_tell_gets_the_sizes_of_the_book(capsys, memory):
    memory(None)
    names = {"n_subjects": 2000, "n_images": 1000, "n_draws": 10}
    sizes.fit_to_memory("01", names)
    assert names["n_subjects"] == 2000 and "does not tell" in capsys.readouterr().out


def test_what_is_smaller_already_stays(capsys, memory):
    memory(1.0)
    names = {"n_subjects": 100, "n_images": 1000, "n_draws": 10}
    sizes.fit_to_memory("01", names)
    assert names == {"n_subjects": 100, "n_images": 200, "n_draws": 2}
    assert "n_subjects = 100, n_images = 200" in capsys.readouterr().out


def test_a_wrong_chapter_or_place_is_named():
    with pytest.raises(ValueError, match="small_parameters.yml has no chapter '77'; it has 01_simulate_bias, "):
        sizes.fit_to_memory("77", {})
    with pytest.raises(ValueError, match="chapter 01: there is no variable 'n_images' yet"):
        sizes.fit_to_memory("01", {"n_subjects": 3})


def test_small_sizes_are_whole_numbers_of_every_chapter():
    known = yaml.safe_load(sizes.SMALL.read_text(encoding="utf-8"))
    assert sorted(known) == [path.stem for path in CHAPTERS]
    assert all(isinstance(size, int) for found in known.values() for size in found.values())
