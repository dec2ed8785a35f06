"""The public address: one place states it, every copy agrees, and the set-up cell works with and without one."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("address", ROOT / "book" / "address.py")
address = importlib.util.module_from_spec(_spec)
sys.modules["address"] = address
_spec.loader.exec_module(address)


def test_every_copy_of_the_address_agrees():
    assert address.disagreements(ROOT) == []


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository's text files in a git folder of its own, with a chapter of two cells."""
    for path in address.files(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    chapter = tmp_path / "book" / "chapters" / "77_test.ipynb"
    chapter.parent.mkdir(exist_ok=True)
    here = address.read_address(tmp_path)
    link = f"[Open](https://colab.research.google.com/github/{here.slug}/blob/{here.ref}/book/chapters/77_test.ipynb)"
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# É\n", "\n", link]},
             {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [],
              "source": address.setup_cell(here).splitlines(keepends=True)}]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    chapter.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def test_the_address_changes_everywhere_and_back(copy):
    old = address.read_address(copy)
    before = {path: path.read_bytes() for path in address.files(copy)}
    assert address.disagreements(copy) == []
    new = address.make_address("https://github.com/some-body/bias.course.git", "v1.0")
    changed = address.change(new, copy)
    assert {*address.MUST_NAME, "pyproject.toml", "book/chapters/77_test.ipynb",
            "book/exercises/01_simulate_bias.ipynb", "book/exercises/student/01_simulate_bias.ipynb"} <= set(changed)
    assert address.disagreements(copy) == []
    assert address.read_address(copy) == new
    for path in address.files(copy):
        text = path.read_text(encoding="utf-8")
        assert old.slug not in text and "OWNER" not in text, path
    notebook = (copy / "book/chapters/77_test.ipynb").read_text(encoding="utf-8")
    assert "github/some-body/bias.course/blob/v1.0/book" in notebook
    assert "git+https://github.com/some-body/bias.course@v1.0" in notebook and "assert" not in notebook
    assert yaml.safe_load((copy / "book/_config.yml").read_text())["repository"]["branch"] == "v1.0"
    address.change(old, copy)
    assert {path: path.read_bytes() for path in address.files(copy)} == before


@pytest.mark.parametrize("name, old, new", [
    ("README.md", "github/{slug}/blob/{ref}/", "github/{slug}/blob/other/"),
    ("README.md", "git+https://github.com/{slug}@", "git+https://github.com/else/where@"),
    ("CITATION.cff", "github.com/{slug}", "github.com/else/where"),
    ("CONTRIBUTING.md", "bias_tutorial.ready()", "print()"),
    ("book/_config.yml", "branch: {ref}", "branch: other"),
    ("book/chapters/77_test.ipynb", "github/{slug}/blob", "github/else/where/blob"),
    ("book/chapters/77_test.ipynb", "!pip install", "!pip  install"),
    ("book/exercises/01_simulate_bias.ipynb", "github/{slug}/blob", "github/else/where/blob"),
    ("book/exercises/student/01_simulate_bias.ipynb", '\\"google.colab\\" in sys.modules', "True"),
    ("book/chapters/77_test.ipynb", '\\"google.colab\\" in sys.modules', "True"),
])
def test_a_copy_that_disagrees_is_found(copy, name, old, new):
    here = address.read_address(copy)._asdict() | {"slug": address.read_address(copy).slug}
    text = (copy / name).read_text(encoding="utf-8")
    assert old.format(**here) in text
    (copy / name).write_text(text.replace(old.format(**here), new.format(**here)), encoding="utf-8")
    assert [line for line in address.disagreements(copy) if line.startswith(name)]


@pytest.mark.parametrize("url, ref", [("github.com/a/b", "main"), ("https://example.org/a/b", "main"),
                                      ("https://github.com/a", "main"), ("https://github.com/a/b", "two words")])
def test_an_impossible_address_is_refused(url, ref):
    with pytest.raises(ValueError, match="must (look like|be a name)"):
        address.make_address(url, ref)


@pytest.mark.parametrize("url", ["https://github.com/OWNER/where-bias-hides", "https://github.com/you/where-bias-hides"])
def test_the_set_up_cell_installs_nothing_outside_colab(url, capsys, monkeypatch):
    """At most six lines; on Colab it installs from the address, or says in one sentence that there is none."""
    from IPython.core.inputtransformer2 import TransformerManager

    cell = address.setup_cell(address.make_address(url, "main"))
    assert len(cell.splitlines()) <= 6
    code, ran = TransformerManager().transform_cell(cell), []

    class Shell:
        system = staticmethod(ran.append)

    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    exec(code, {"get_ipython": Shell})
    assert ran == []
    assert capsys.readouterr().out.count("ready") == 1
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    if "OWNER" in url:
        with pytest.raises(AssertionError, match="^This copy has no public address yet, so Colab cannot install it.$"):
            exec(code, {"get_ipython": Shell})
    else:
        exec(code, {"get_ipython": Shell})
        assert len(ran) == 1 and f"git+{url}@main" in ran[0]
