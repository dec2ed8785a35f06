"""Plant one fault at a time in a copy of the repository, and demand that the check meant for it turns red.

    python tests/guards.py [WORD ...]      only the guards whose name holds one of the words

Each check runs first without a fault and must be green. A fault counts as found when the check fails *and* says what
guard expects it to say, so that a check that is broken in another way does not pass for a working one. What `make book`
ran and rendered is taken over; chapters that it did not run, run here, and faults of pages are planted in its pages.
"""

from __future__ import annotations

import os
import shlex
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

ARTICLE = '<article class="bd-article">'
PAGES = PYTEST + "tests/pages/"


def on_page(name: str, put: str, check: str, says: str, page: str = "glossary") -> Guard:
    """A fault that stands at the beginning of a built page; `check` is a test below tests/pages, for that page."""
    script, _, test = check.partition(" ")
    chosen = f'{PAGES}{script} -k "{test} and {page}"' if test else f"{script} {BUILT / 'html'}"
    return Guard(name, f"{(BUILT / 'html' / page).as_posix()}.html", ARTICLE, ARTICLE + put, chosen, says)


GUARDS = [
    # The simulated world
    Guard("stratification no longer balances", "bias_tutorial/stratify.py",
          "    if not stratify:", "    if True:",
          PYTEST + "tests/test_world.py -k twentieth", "test_groups_and_splits_differ_by_less"),
    Guard("Jacobian check taken out", "bias_tutorial/simulate/deformation.py",
          "bad = torch.nonzero(~(lowest > 0)).flatten().tolist()", "bad = []",
          PYTEST + "tests/test_world.py -k folds", "DID NOT RAISE"),
    Guard("counterfactual that changes nothing", "bias_tutorial/simulate/__init__.py",
          'changes = {**cohort.meta["counterfactual"], **changes}', 'changes = {**cohort.meta["counterfactual"]}',
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
    Guard("explorer whose page is older than the package", "bias_tutorial/figures/chapter_01.py",
          '"overall": at["overall"]', '"overall": at["wanted"]',
          PAGES + 'test_explorers.py -k "computes_now and 01_simulate"', "test_what_the_page_holds_is_what_python"),
    Guard("explorer that shows the value of another frame", "book/_build/html/chapters/02_train_cnn.html",
          "values[k].dataset.value = value[1];", "values[0].dataset.value = value[1];",
          PAGES + 'test_explorers.py -k "sliders and 02_train"', "compare(root"),
    Guard("chapter without an explorer", "book/_build/html/chapters/02_train_cnn.html",
          '<div class="bt-explore"', '<div class="bt-other"',
          PAGES + 'test_explorers.py -k "has_an_explorer and 02_train"', "test_every_chapter_has_an_explorer"),
    Guard("notebook cell that raises", "book/chapters/01_simulate_bias.ipynb",
          "cohort.table[shown]", "cohort.tables[shown]",
          PYTEST + 'tests/test_chapters.py -k "every_cell and 01_simulate"', "has no attribute 'tables'"),
    # Pages in a browser
    on_page("page that asks the network for a picture", '<img src="https://example.org/x.png" alt="A picture">',
            "test_pages.py asks_for_nothing", "the page asks the network"),
    on_page("page with an error in the console", '<script>console.error("planted")</script>',
            "test_pages.py asks_for_nothing", "console: planted"),
    on_page("output that is empty", '<div class="cell_output"><div style="height:1px"></div></div>',
            "test_pages.py asks_for_nothing", "an empty output"),
    on_page("formula that cannot be read", '<mjx-container><mjx-merror></mjx-merror></mjx-container>',
            "test_pages.py asks_for_nothing", "a formula could not be read"),
    Guard("question that is lost", "book/_build/html/chapters/02_train_cnn.html",
          'data-numquestions="', 'data-numquestions="1', PAGES + 'test_pages.py -k "question and 02_train"',
          "a question is missing"),
    on_page("button without a name", '<button type="button"></button>',
            "test_pages.py accessible and light", "button-name"),
    on_page("text too dark on a dark page", '<style>html[data-theme="dark"] article dd {color: #444}</style>',
            "test_pages.py accessible and dark", "color-contrast"),
    on_page("page that scrolls sideways on a phone", '<div style="width: 600px">wide</div>',
            "test_pages.py fits_a_phone", "wider than the phone"),
    on_page("place that catches the keyboard", '<button type="button" onkeydown="event.preventDefault()">stay</button>',
            "test_pages.py goes_through", "the keyboard is caught"),
    on_page("focus that nobody sees", "<style>article a:focus {all: unset !important; font: inherit}"
            "article a {all: unset !important; font: inherit}</style>",
            "test_pages.py goes_through", "nobody sees that this has the focus"),
    on_page("motion where it is unwelcome", "<style>article {transition-duration: 1s !important}</style>",
            "test_pages.py moves_where", "bd-article"),
    on_page("page above 3 MB", f"<!-- {'x' * 3_000_000} -->", "test_weight.py soon", "at most 3,000,000"),
    Guard("page that shows nothing for long", "book/_build/html/glossary.html",
          "<title>", "<script>for (const end = Date.now() + 2500; Date.now() < end;);</script><title>",
          PAGES + 'test_weight.py -k "soon and glossary"', "the first paint took"),
    on_page("heading that skips levels", "<h5>deep</h5>", "book/checks.py", "'deep' is of level 5"),
    on_page("result figure without a text", '<div class="cell_output"><img src="data:image/png;base64,AA"></div>',
            "book/checks.py", "a picture without a text"),
    Guard("chapter whose Binder link leads elsewhere", "book/_build/html/chapters/01_simulate_bias.html",
          "urlpath=lab/tree/book/chapters/01_simulate_bias.ipynb", "urlpath=lab/tree/book/chapters/01_other.ipynb",
          PAGES + 'test_pages.py -k "offer_colab and 01_simulate"', "mybinder.org"),
    # Set-up
    Guard("set-up cell that prints what pip says", "book/chapters/01_simulate_bias.ipynb",
          "!pip install -qq {course}", "!pip install {course}", PYTEST + "tests/test_colab.py -k begins_with",
          "test_every_notebook_begins_with_the_set_up_cell"),
    Guard("set-up contract that is deaf to pip's complaints", "tests/colab.py",
          "    if FRIGHTENING.search(text):", "    if False:", PYTEST + "tests/test_colab.py -k anything_else",
          "DID NOT RAISE"),
    Guard("sizes of the book where memory is short", "bias_tutorial/sizes.py",
          "    elif free >= ENOUGH:", "    elif True:", PYTEST + "tests/test_sizes.py -k only_where",
          "test_every_chapter_takes_its_small_sizes_only"),
    Guard("container's memory limit that is overlooked", "bias_tutorial/environment.py",
          "        if limit is not None and limit < total:", "        if False:",
          PYTEST + "tests/test_environment.py -k respects_the_container", "test_memory_on_linux_respects"),
    # Claims and prose
    Guard("number without a source on a page that is no chapter", "book/running.md", "starts with little memory",
          "starts with 2.5 GB of memory", CHECK_CLAIMS, "'2.5' has no source"),
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
    for part in ("executed", "html"):  # so that unchanged chapters need not run again, and pages are there
        if (ROOT / BUILT / part).exists():
            shutil.copytree(ROOT / BUILT / part, target / BUILT / part)


def run(command: str, folder: Path) -> tuple[bool, str]:
    """Run a check in the copy, with the copy's package; (green, what it printed)."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, *shlex.split(command)], cwd=folder, env=environment, capture_output=True,
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
        needs = "run `make book` first" if guard.file.startswith(BUILT.as_posix()) else "update tests/guards.py"
        return f"there is no {guard.file}; {needs}"
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
