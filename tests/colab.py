"""The set-up contract: the literal set-up cell of a notebook, where Colab's versions are and the course is not.

    python tests/colab.py [--python python3.13 --torch 2.11.0] [--only sheets] [chapter ...]

Every chapter and every student's sheet of exercises is copied alone to an empty folder and opened there as Colab would:
`google.colab` is imported, the course is not installed. Only the address in the set-up cell is replaced, by an archive
of this working tree. The cell must print one green line, change no installed version and need no restart; then the
whole notebook must run: a chapter with its small sizes, a sheet with the answers of its master, or without a master up
to the first cell that the student fills in.
The environment is kept in ``.venv-colab*`` and made anew when the list of versions below changes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).resolve().parents[1]
# What Colab had in August 2026, of what the course uses. torch: the version is given on the command line.
COLAB = ["numpy==2.1.3", "pandas==2.2.3", "scikit-learn==1.6.1", "scipy==1.16.3", "matplotlib==3.10.0",
         "ipywidgets==7.7.1", "ipykernel==6.17.1", "ipython==7.34.0", "setuptools", "wheel", "pip"]
ADDRESS = re.compile(r"(?:git\+)?https://github\.com/[^\s\"'{}\\)]+")
FRIGHTENING = re.compile(r"dependency resolver|incompatible|conflict|ERROR|restart|notice|warning|deprecat", re.I)
GREEN = "\x1b[32m"


class Broken(Exception):
    """The contract does not hold; the message says where and how."""


def pip(python: Path, *arguments: str) -> str:
    """Run pip of an environment and return what it printed; a failure is :class:`Broken` with pip's last lines."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"pip {' '.join(arguments)[:200]} failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def versions(python: Path) -> dict[str, str]:
    """Name and version of everything installed."""
    return {p["name"].lower(): p["version"] for p in json.loads(pip(python, "list", "--format=json"))}


def environment(python: str, torch: str, index: str | None) -> tuple[Path, dict[str, str]]:
    """The environment with Colab's versions and nothing of the course, and its list of versions; made if need be."""
    tag = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                         capture_output=True, text=True)
    if tag.returncode:
        raise Broken(f"There is no {python!r} here; name one with PYTHON=")
    folder = ROOT / f".venv-colab-{tag.stdout.strip()}"
    inside, stamp = folder / "bin" / "python", folder / "colab.json"
    wanted = [*COLAB, f"torch=={torch}", "torchvision"]
    known = json.loads(stamp.read_text()) if stamp.exists() else {}
    if known.get("wanted") == wanted:
        now, base = versions(inside), known["installed"]
        if added := sorted(now.keys() - base.keys()):
            pip(inside, "uninstall", "--yes", "--quiet", *added)
            now = versions(inside)
        if now == base:
            return inside, base
    print(f"Making {folder.name} with Colab's versions and torch {torch} ...", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip(inside, "install", "--quiet", *(["--extra-index-url", index] if index else []), *wanted)
    stub = Path(subprocess.run([inside, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                               capture_output=True, text=True, check=True).stdout.strip()) / "google" / "colab"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text('"""An empty stand-in: the set-up cell only looks whether it was imported."""\n')
    installed = versions(inside)
    stamp.write_text(json.dumps({"wanted": wanted, "installed": installed}))
    return inside, installed


def archive(folder: Path) -> Path:
    """A zip of the working tree as the repository's host would serve it: one top folder, no ignored files."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    path = folder / "where-bias-hides-main.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(filter(None, listed.split("\0"))):
            if (ROOT / name).is_file():
                file.write(ROOT / name, f"where-bias-hides-main/{name}")
    return path


def reach_of_pip(python: Path) -> dict[str, str]:
    """How this machine's pip reaches its index, and nothing else of its settings: Colab's pip has none of them."""
    keys = {"PIP_CERT": "global.cert", "PIP_INDEX_URL": "global.index-url", "PIP_PROXY": "global.proxy"}
    found = {"PIP_CONFIG_FILE": os.devnull}
    for name, key in keys.items():
        done = subprocess.run([python, "-m", "pip", "config", "get", key], capture_output=True, text=True)
        if done.stdout.strip():
            found[name] = done.stdout.strip()
    return found


def kernel(folder: Path, python: Path) -> None:
    """Describe the environment's kernel to Jupyter, with `google.colab` imported at its start as on Colab."""
    spec = folder / "kernels" / "colab"
    spec.mkdir(parents=True)
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n")
    env = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "IPYTHONDIR": str(folder / "ipython"),
           "PYTHONPATH": "", "VIRTUAL_ENV": str(python.parent.parent), "PIP_DISABLE_PIP_VERSION_CHECK": "1",
           "PYDEVD_DISABLE_FILE_VALIDATION": "1", **reach_of_pip(python)}
    (spec / "kernel.json").write_text(json.dumps({
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python",
        "display_name": "Colab", "env": env}))
    os.environ["JUPYTER_PATH"] = str(folder)


def set_up(notebook) -> int:
    """Position of the set-up cell: the first code cell, which must ask whether it runs on Colab."""
    number = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    source = notebook.cells[number].source
    if '"google.colab" in sys.modules' not in source or not ADDRESS.search(source):
        raise Broken(f"cell {number} is not the set-up cell of the template:\n{source}")
    if (lines := len(source.strip().splitlines())) > 6:
        raise Broken(f"the set-up cell has {lines} lines, at most 6 are allowed")
    return number


def check_outputs(cell) -> None:
    """The set-up cell's result: one green line and nothing that frightens a beginner."""
    text = "".join(out.text for out in cell.outputs if out.output_type == "stream")
    other = [out.output_type for out in cell.outputs if out.output_type != "stream"]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 1 or GREEN not in lines[0] or other:
        raise Broken(f"the set-up cell must print one green line and nothing else; it printed {other} {text!r}")
    if FRIGHTENING.search(text):
        raise Broken(f"the set-up cell frightens: {text!r}")


def answered(sheet: Path) -> nbformat.NotebookNode:
    """A student's sheet with the answers of its master, or only what stands before the first answer."""
    notebook, master = load_notebook_node(str(sheet)), sheet.parents[1] / sheet.name
    answers = {}
    if master.exists():
        answers = {cell.metadata.nbgrader.grade_id: cell.source for cell in load_notebook_node(str(master)).cells
                   if cell.metadata.get("nbgrader", {}).get("solution")}
    for number, cell in enumerate(notebook.cells):
        graded = cell.metadata.get("nbgrader", {})
        if graded.get("solution") and graded["grade_id"] in answers:
            cell.source = answers[graded["grade_id"]]
        elif graded.get("solution") or graded.get("grade") and not answers:
            notebook.cells = notebook.cells[:number]
            break
    return notebook


def check_notebook(path: Path, notebook: nbformat.NotebookNode, python: Path, base: dict[str, str],
                   parameters: dict) -> None:
    """Run one notebook, the file at `path`, under the contract; raises :class:`Broken`."""
    number = set_up(notebook)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "content").mkdir()
        notebook.cells[number].source = ADDRESS.sub(str(archive(folder)), notebook.cells[number].source)
        kernel(folder, python)
        notebook = parameterize_notebook(notebook, parameters) if parameters else notebook
        shutil.copy(path, folder / "content" / path.name)
        client = NotebookClient(notebook, timeout=1200, kernel_name="colab", force_raise_errors=True,
                                resources={"metadata": {"path": str(folder / "content")}})
        try:
            client.execute()
        except CellExecutionError as error:
            raise Broken(f"{error.ename}: {error.evalue}\n{error.traceback[-2500:]}") from None
    check_outputs(notebook.cells[set_up_again(notebook)])
    now = versions(python)
    changed = {n: (v, now.get(n)) for n, v in base.items() if now.get(n) != v}
    if changed:
        raise Broken(f"installing the course changed what was there (so a restart is needed): {changed}")
    if "bias-tutorial" not in now:
        raise Broken("the set-up cell did not install the course")


def set_up_again(notebook) -> int:
    """Position of the set-up cell after papermill may have put cells in."""
    return next(i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and "google.colab" in c.source)


def main() -> int:
    """Check the notebooks of the chapters named (default: all); print one line each; 1 when any breaks the contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as 01")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch", default="", help="default: the version in requirements.txt")
    parser.add_argument("--only", choices=("chapters", "sheets"), help="default: chapters and students' sheets")
    parser.add_argument("--index", help="a further package index, such as the one with torch for CPUs")
    options = parser.parse_args()
    pinned = re.search(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(), re.M).group(1)
    parameters = yaml.safe_load((ROOT / "bias_tutorial" / "stored" / "small_parameters.yml").read_text())
    folders = {"chapters": ROOT / "book" / "chapters", "sheets": ROOT / "book" / "exercises" / "student"}
    paths = [path for kind, folder in folders.items() for path in sorted(folder.glob("*.ipynb"))
             if options.only in (None, kind) and path.name.startswith(tuple(options.chapters) or "")]
    if not paths:
        print(f"No notebook matches {options.chapters or 'book/chapters/*.ipynb'}.", file=sys.stderr)
        return 1
    broken = 0
    for path in paths:
        label = path.relative_to(ROOT / "book").with_suffix("").as_posix()
        try:
            start = time.perf_counter()
            python, base = environment(options.python, options.torch or pinned, options.index)
            sheet = path.parent == folders["sheets"]
            notebook = answered(path) if sheet else load_notebook_node(str(path))
            check_notebook(path, notebook, python, base, {} if sheet else parameters.get(path.stem) or {})
            print(f"{label}: one green line, {len(base)} installed versions unchanged, no restart, "
                  f"{len(notebook.cells)} cells run ({time.perf_counter() - start:.0f} s)", flush=True)
        except Broken as error:
            broken += 1
            print(f"{label}: the set-up contract is broken: {error}", file=sys.stderr, flush=True)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
