"""Run a chapter in a fresh kernel, measure it, and keep the result under a key of everything it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

WORDS_PER_MINUTE = 200
CODE_LINES_PER_MINUTE = 12
LONGEST_TRACEBACK = 3000  # characters
ANSI = re.compile(r"\x1b\[[\d;]*m")  # colours
SKIPPED = {"__pycache__", ".ipynb_checkpoints"}
# The kernel sees these: widgets and progress bars stay out of the page, and hashes of strings are the same every time.
KERNEL_ENV = {"BIAS_TUTORIAL_BOOK": "1", "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1"}


class BuildError(Exception):
    """Something that must stop the build; the message names file and cell."""


@dataclass(frozen=True)
class Measured:
    """What one run of a chapter took, and the key it belongs to."""

    chapter: str
    key: str
    seconds: float
    peak_mib: float
    cores: int


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def inputs(root: Path, chapter: Path) -> list[Path]:
    """Files that results depend on: the chapter, the package with what it stores, samples, pins, and this file."""
    files = [chapter, Path(__file__).resolve(), root / "requirements.txt", root / "pyproject.toml"]
    for folder in (root / "bias_tutorial", root / "data" / "samples"):
        files += sorted(p for p in folder.rglob("*") if p.is_file() and not SKIPPED & set(p.parts))
    return [p for p in files if p.exists()]


def cache_key(root: Path, chapter: Path) -> str:
    """SHA-256 over the content of :func:`inputs`, interpreter, the kernel's settings and every installed version."""
    digest = hashlib.sha256()
    installed = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    for part in (sys.version, json.dumps(KERNEL_ENV), "\n".join(installed)):
        digest.update(part.encode() + b"\0")
    for file in inputs(root, chapter):
        digest.update(os.path.relpath(file, root).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class PeakMemory(threading.Thread):
    """Watch a kernel and its workers, and remember the most memory they held together."""

    def __init__(self, client: NotebookClient):
        super().__init__(daemon=True)
        self.client, self.mib, self.done = client, 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
            try:
                family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] if pid else []
                self.mib = max(self.mib, sum(p.memory_info().rss for p in family) / 2**20)
            except psutil.Error:  # a worker ended between being listed and being asked
                continue


def run(chapter: Path, key: str) -> tuple[nbformat.NotebookNode, Measured]:
    """Execute every cell in a fresh kernel and an empty folder; a raised cell or a warning is a :class:`BuildError`."""
    notebook = nbformat.read(chapter, as_version=4)
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", force_raise_errors=True,
                            extra_arguments=["--log-level=ERROR"])  # not: a remark on how the kernel is reached
    memory = PeakMemory(client)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one that the user registered
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **KERNEL_ENV, "IPYTHONDIR": folder}
        env.pop("PYTHONWARNINGS", None)
        client.resources["metadata"] = {"path": folder}
        start = time.perf_counter()
        memory.start()
        try:
            client.execute(env=env)
        except CellExecutionError as error:
            number = next((i for i, cell in enumerate(notebook.cells) if failed(cell)), -1)
            what = f"{error.ename}: {error.evalue}\n{ANSI.sub('', error.traceback)[-LONGEST_TRACEBACK:]}"
            raise BuildError(f"{chapter.name}, cell {number}: {what}") from None
        finally:
            memory.done.set()
            memory.join()
        seconds = time.perf_counter() - start
    warned = [f"{chapter.name}, cell {i}: {text.strip()}" for i, text in warnings_of(notebook)]
    if warned:
        raise BuildError("A chapter may not warn:\n" + "\n".join(warned))
    return notebook, Measured(chapter.stem, key, round(seconds, 2), round(memory.mib, 1), os.cpu_count() or 1)


def failed(cell) -> bool:
    """Whether a cell ended in an exception."""
    return any(out.output_type == "error" for out in cell.get("outputs", []))


def warnings_of(notebook) -> list[tuple[int, str]]:
    """(cell number, text) of everything a notebook wrote to standard error."""
    return [(i, out.text) for i, cell in enumerate(notebook.cells) for out in cell.get("outputs", [])
            if out.output_type == "stream" and out.name == "stderr" and out.text.strip()]


def cached(folder: Path, chapter: Path, key: str) -> Measured | None:
    """The measurement of a stored run, if it belongs to this key and its notebook is there."""
    try:
        measured = Measured(**json.loads((folder / f"{chapter.stem}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return measured if measured.key == key and (folder / chapter.name).exists() else None


def execute(root: Path, chapter: Path, folder: Path) -> tuple[Measured, bool]:
    """Run a chapter unless `folder` holds a run with the same key; returns the measurement and whether it ran now."""
    key = cache_key(root, chapter)
    if known := cached(folder, chapter, key):
        return known, False
    (folder / f"{chapter.stem}.json").unlink(missing_ok=True)
    notebook, measured = run(chapter, key)
    write_atomic(folder / chapter.name, nbformat.writes(notebook))
    write_atomic(folder / f"{chapter.stem}.json", json.dumps(asdict(measured), indent=1))  # last: now the run counts
    return measured, True


def minutes_to_read(notebook) -> int:
    """Reading time: words of prose at 200 a minute and visible code at 12 lines a minute, at least 1."""
    words = lines = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|<!--.*?-->|\$[^$]*\$|https?://\S+", " ", cell.source, flags=re.S)
            words += len(re.findall(r"\b[\w'’-]+\b", prose))
        elif cell.cell_type == "code" and not {"remove-input", "hide-input"} & set(cell.metadata.get("tags", [])):
            lines += sum(1 for line in cell.source.splitlines() if line.strip())
    return max(1, round(words / WORDS_PER_MINUTE + lines / CODE_LINES_PER_MINUTE))


def header(notebook, measured: Measured | None) -> str:
    """The line under a chapter's title: minutes to read, time to run, memory; measured, never typed."""
    reading = f"{minutes_to_read(notebook)} min to read"
    if measured is None:
        return f"*{reading}. This chapter was not run in this build, so the page shows no results.*"
    seconds = measured.seconds
    running = f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.1f} min"
    memory = max(0.1, measured.peak_mib / 1024)
    return (f"*{reading} · {running} to run and {memory:.1f} GiB of memory, as measured when this page was built "
            f"({measured.cores} cores).*")
