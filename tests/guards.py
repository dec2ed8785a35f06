"""Plant one fault at a time in a copy of the repository, and demand that the check meant for it turns red.

    python tests/guards.py [WORD ...]      only the guards whose name holds one of the words

Each check runs first without a fault and must be green. A fault counts as found when the check fails *and* says what
guard expects it to say, so that a check that is broken in another way does not pass for a working one. What `make book`
ran is taken over; chapters that it did not run, run here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = Path("book") / "_build"


@dataclass(frozen=True)
class Guard:
    """A fault and the check that must find it.

    ``find`` stands exactly once in ``file`` and is replaced by ``put``; ``check`` is a command for this Python;
    ``says`` stands in what the check prints when it is red.
    """

    name: str
    file: str
    find: str
    put: str
    check: str
    says: str


BOOK = "book/build.py"
CHECK_CLAIMS = "-m bias_tutorial.claims check"
SHORT_RUNS = "-m bias_tutorial.claims short 01"
PYTEST = "-m pytest -q -x -p no:cacheprovider "

GUARDS = [
    # The simulated world
    Guard("stratification no longer balances", "bias_tutorial/stratify.py",
          "    if not stratify:", "    if True:",
          PYTEST + "tests/test_world.py -k twentieth", "test_groups_and_splits_differ_by_less"),
    Guard("Jacobian check taken out", "bias_tutorial/simulate/deformation.py",
          "bad = torch.nonzero(~(lowest > 0)).flatten().tolist()", "bad = []",
          PYTEST + "tests/test_world.py -k folds", "DID NOT RAISE"),
    Guard("counterfactual that changes nothing", "bias_tutorial/simulate/__init__.py",
          "**{k: int(v) for k, v in attributes.items()}}", "}",
          PYTEST + "tests/test_world.py -k twin", "test_a_twin_differs_in_the_one_effect_alone"),
    # The book
    Guard("cache key that forgets the package", "book/execution.py",
          'for folder in (root / "bias_tutorial", root / "data" / "samples"):',
          'for folder in (root / "data" / "samples",):',
          PYTEST + "tests/test_book.py -k key_follows_every", "bias_tutorial/__init__.py"),
    Guard("remote file in every page", "book/_ext/offline.py",
          "config.mathjax_path = MATHJAX", 'config.mathjax_path = "https://cdn.jsdelivr.net/npm/mathjax@3/tex-chtml.js"',
          PYTEST + "tests/test_book.py -k builds_offline", "remote file"),
    Guard("alt text dropped from figures", "bias_tutorial/svg.py",
          'role="img" aria-label="{html.escape(alt)}" ', 'role="img" ',
          PYTEST + "tests/test_plotting.py", "aria-label"),
    Guard("explorer shows another value than Python's", "bias_tutorial/explore.py",
          "repr(_plain(v))] for v in shown.values.values()]", "repr(_plain(v * 1.01))] for v in shown.values.values()]",
          PYTEST + "tests/test_explore.py -k equal_pythons", "test_values_in_the_page_equal_pythons"),
    Guard("notebook cell that raises", "book/chapters/01_simulate_bias.ipynb",
          "cohort.table[shown]", "cohort.tables[shown]",
          PYTEST + "tests/test_chapters.py -k every_cell", "has no attribute 'tables'"),
    # Claims and prose
    Guard("stored run changed by hand", "bias_tutorial/stored/runs/01_stratification.jsonl",
          '"seed": 3, "results": {"worst_smd_stratified": 0.0', '"seed": 3, "results": {"worst_smd_stratified": 0.00',
          PYTEST + "tests/test_claims.py -k stored_runs_are_whole", "was changed after it was written"),
    Guard("code that no longer gives the stored results", "bias_tutorial/studies/chapter_01.py",
          "return 1_000_000 * role + seed", "return 1_000_001 * role + seed", SHORT_RUNS, "the short run gives"),
    Guard("wrong number in a chapter", "book/chapters/01_simulate_bias.ipynb",
          "0.718<!-- =key:", "0.719<!-- =key:", CHECK_CLAIMS, "'0.719' should be 0.718"),
    Guard("wrong number in the README", "README.md", "92%<!-- =key:", "93%<!-- =key:",
          CHECK_CLAIMS, "'93%' should be 92%"),
    Guard("number without a source in the README", "README.md", "Simulated data and teaching material.",
          "Simulated data and teaching material, 87 times.", CHECK_CLAIMS, "'87' has no source"),
    Guard("quiz option without an explanation", "bias_tutorial/stored/quizzes/01.json",
          '"feedback": "Dropping rows takes no time at all. The reason lies in the data that would remain."',
          '"feedback": ""', PYTEST + "tests/test_quiz.py -k stored", "needs a 'feedback'"),
    # Files for others
    Guard("BIDS field that the standard does not know", "bias_tutorial/bids.py",
          '"BIDSVersion": "1.10.0"', '"BIDSVersions": "1.10.0"',
          PYTEST + "tests/test_bids.py -k official_validator_finds_no", "JSON_KEY_REQUIRED"),
]


def copy(target: Path) -> None:
    """Copy what git would track, and the last built book, to ``target``."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if (ROOT / BUILT / "executed").exists():  # so that unchanged chapters need not run again
        shutil.copytree(ROOT / BUILT / "executed", target / BUILT / "executed")


def run(command: str, folder: Path) -> tuple[bool, str]:
    """Run a check in the copy, with the copy's package; (green, what it printed)."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, *command.split()], cwd=folder, env=environment, capture_output=True,
                          text=True)
    return done.returncode == 0, done.stdout + done.stderr


def planted(guard: Guard, folder: Path) -> Callable[[], None]:
    """Plant the fault; returns what takes it out again."""
    path = folder / guard.file
    before = path.read_text(encoding="utf-8")
    if before.count(guard.find) != 1:
        raise ValueError(f"{guard.file} holds the text to change {before.count(guard.find)} times, expected once: "
                         f"{guard.find!r}; update tests/guards.py")
    path.write_text(before.replace(guard.find, guard.put), encoding="utf-8")
    return lambda: path.write_text(before, encoding="utf-8")


def try_guard(guard: Guard, folder: Path, green: dict[str, bool]) -> str:
    """Plant, check, take out; 'red' when the fault was found, else a sentence."""
    if not (folder / guard.file).is_file():
        return f"there is no {guard.file}; update tests/guards.py"
    if guard.check not in green:
        green[guard.check], said = run(guard.check, folder)
        if not green[guard.check]:
            print(said[-3000:])
    if not green[guard.check]:
        return "the check fails without the fault too"
    try:
        restore = planted(guard, folder)
    except ValueError as error:
        return str(error)
    try:
        passed, said = run(guard.check, folder)
    finally:
        restore()
    if passed:
        return "NOT FOUND: the check stays green"
    return "red" if guard.says in said else f"red, but it does not say {guard.says!r}: ...{said[-600:]}"


def main(words: list[str]) -> int:
    """Try the guards; 0 when every fault was found."""
    wanted = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    missed, green = 0, {}
    with tempfile.TemporaryDirectory(prefix="guards-") as name:
        folder = Path(name)
        copy(folder)
        print(f"{'fault':<52}{'seconds':>8}  result")
        for guard in wanted:
            start = time.perf_counter()
            result = try_guard(guard, folder, green)
            missed += result != "red"
            print(f"{guard.name:<52}{time.perf_counter() - start:>8.1f}  {result}", flush=True)
    print(f"{len(wanted) - missed} of {len(wanted)} faults were found.")
    return 1 if missed or not wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
