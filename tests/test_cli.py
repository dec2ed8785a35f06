"""The command line: exit codes, one-line errors, and the same files as from Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from bias_tutorial import bids, claims, claims_checks, cli, environment, experiments, simulate, storage
from bias_tutorial.scenario import preset

SMALL = ("--n", "24", "--shape", "36x30", "--workers", "1")


def run(*arguments: str):
    """Call the command in this process; an exception that is not its own exit is raised."""
    result = CliRunner().invoke(cli.app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_help_names_the_commands():
    for arguments in (("--help",), *((name, "--help") for name in ("doctor", "cxr", "sweep", "classroom", "simulate"))):
        result = run(*arguments)
        assert result.exit_code == 0
    commands = {command.callback.__name__ for command in cli.app.registered_commands}
    assert commands == {"cxr", "doctor", "simulate", "sweep"}
    options = set(re.findall("--[a-z]+", result.output))
    assert {"--out", "--p", "--n", "--seed", "--shape", "--layout", "--workers"} <= options


def test_doctor_says_all_is_well():
    result = run("doctor")
    assert result.exit_code == 0
    assert "✓ everything that is needed is here" in result.output
    assert "torch" in result.output and "precision" in result.output


def test_doctor_fails_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(environment, "_requirements", lambda: ["no-such-package>=1.2"])
    result = run("doctor")
    assert result.exit_code == 1
    assert "pip install 'no-such-package>=1.2'" in result.output


@pytest.mark.parametrize("layout", ["bids", "simba"])
def test_simulate_writes_what_python_writes(tmp_path, layout):
    call = ("simulate", "near", "--p", "0.8", "--seed", "3", "--layout", layout, "--out", str(tmp_path / "a"), *SMALL)
    result = run(*call)
    assert result.exit_code == 0, result.output
    assert "24 images written, 0 kept" in result.output
    storage.write_simulation("near", 24, 3, tmp_path / "b", (36, 30), layout, 1, p=0.8, progress=False)
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(names) > 24
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert "0 images written, 24 kept" in run(*call).output


def test_simulate_has_the_documented_defaults(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(storage, "write_simulation", lambda *args, **kwargs: seen.update(args=args, **kwargs)
                        or {"written": 0, "kept": 0})
    assert run("simulate", "both", "--out", str(tmp_path / "d")).exit_code == 0
    assert seen == {"args": ("both", 2000, 0, tmp_path / "d"), "shape": (112, 96), "layout": "bids", "workers": None,
                    "p": None}
    run("simulate", "both", "--out", "d", "--shape", "173x211x155")
    assert seen["shape"] == (173, 211, 155)


def test_the_files_hold_the_cohort_that_was_asked_for(tmp_path):
    run("simulate", "intensity", "--p", "0.9", "--seed", "5", "--out", str(tmp_path / "d"), *SMALL)
    wanted = simulate.brain(preset("intensity", 0.9), 24, 5, shape=(36, 30))
    cohort = bids.from_bids(tmp_path / "d")
    assert cohort.table["intensity"].tolist() == wanted.table["intensity"].tolist()
    np.testing.assert_array_equal(cohort.images[np.arange(24)], np.asarray(wanted.images[np.arange(24)]))
    assert len([nib.load(path) for path in sorted((tmp_path / "d").rglob("*.nii.gz"))]) == 24


@pytest.mark.parametrize("arguments, said", [
    (("nearby",), "unknown preset 'nearby', expected one of no_bias, near, far, intensity, both"),
    (("near", "--p", "1.2"), r"p must lie in \[0, 1\], got 1.2"),
    (("near", "--n", "-4"), "n must be a whole number of at least 1, got -4"),
    (("near", "--shape", "36"), "--shape must be two or three whole numbers such as 112x96"),
    (("near", "--shape", "3.5x4"), "--shape must be two or three whole numbers"),
    (("near", "--seed", "-1"), "seed"),
    (("near", "--workers", "0"), "workers must be a whole number of at least 1, got 0"),
    (("no_such_file.yaml",), "there is no such scenario file"),
])
def test_wrong_values_give_one_sentence_and_write_nothing(tmp_path, arguments, said):
    result = run("simulate", "--n", "24", "--shape", "36x30", *arguments, "--out", str(tmp_path / "d"))
    assert result.exit_code == 2
    assert result.stdout == ""
    message = result.stderr.strip()
    assert message.startswith("bias-tutorial simulate: ") and "\n" not in message and "Traceback" not in message
    assert re.search(said, message), message
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("arguments", [("near",), ("near", "--out", "d", "--layout", "tiff"),
                                       ("near", "--out", "d", "--n", "many")])
def test_unreadable_options_are_refused(arguments):
    result = run("simulate", *arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr and "Traceback" not in result.stderr


def test_another_study_is_not_overwritten(tmp_path):
    run("simulate", "near", "--out", str(tmp_path / "d"), *SMALL)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = run("simulate", "far", "--out", str(tmp_path / "d"), *SMALL)
    assert result.exit_code == 2
    assert "holds another cohort" in result.stderr
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_full_disk_and_an_interrupt_are_said_plainly(tmp_path, monkeypatch):
    def fail(error):
        def write(*_, **__):
            raise error
        monkeypatch.setattr(storage, "write_simulation", write)
        return run("simulate", "near", "--out", str(tmp_path / "d"))

    full = fail(OSError(28, "No space left on device", "d/sub-00001.nii.gz"))
    assert (full.exit_code, full.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in full.stderr and "sub-00001" in full.stderr
    stopped = fail(KeyboardInterrupt())
    assert stopped.exit_code == 130
    assert "the same command continues" in stopped.stderr
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        fail(ZeroDivisionError())


# ---------------------------------------------------------------------- sweep
MEASURES = """
from helper import FACTOR

def product(settings, seed):
    if settings["p"] == settings.get("fails_at"):
        raise ArithmeticError("no subjects left")
    return {"value": FACTOR * settings["p"] * seed}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write a recipe beside a module with its measure, which no other test has loaded; give its path."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = f"measures_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(MEASURES)
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")

    def write(settings="{n: 4, grid: {p: [0.5, 0.75]}}", seeds="0:3", more=""):
        path = tmp_path / "recipe.yml"
        path.write_text(f'measure: {name}:product\nsettings: {settings}\nseeds: "{seeds}"\n'
                        f"store: out/runs.jsonl\n{more}")
        return str(path)

    yield write
    for module in (name, "helper"):
        sys.modules.pop(module, None)


def values(tmp_path):
    rows = experiments.Store(tmp_path / "out" / "runs.jsonl").rows()
    return {(row["settings"]["p"], row["seed"]): row["results"]["value"] for row in rows}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sweep_does_the_runs_of_a_recipe_once(tmp_path, recipe, workers):
    result = run("sweep", recipe(), "--workers", workers)
    assert result.exit_code == 0, result.stderr
    assert f"✓ {tmp_path / 'out' / 'runs.jsonl'}: holds all 6 runs of 'measures_" in result.stdout
    assert values(tmp_path) == {(p, seed): 2 * p * seed for p in (0.5, 0.75) for seed in range(3)}
    before = (tmp_path / "out" / "runs.jsonl").read_bytes()
    assert "holds all 10 runs" in run("sweep", recipe(seeds="0:5"), "--workers", workers).stdout
    after = (tmp_path / "out" / "runs.jsonl").read_bytes()
    assert after.startswith(before) and len(values(tmp_path)) == 10


def test_sweep_takes_other_seeds(tmp_path, recipe):
    assert run("sweep", recipe(), "--workers", "1", "--seeds", "901:903").exit_code == 0
    assert {seed for _, seed in values(tmp_path)} == {901, 902}


def test_sweep_reports_the_runs_that_failed_and_keeps_the_others(tmp_path, recipe):
    result = run("sweep", recipe("{fails_at: 0.5, grid: {p: [0.5, 0.75]}}", "0:2"), "--workers", "1")
    assert result.exit_code == 2
    message = [line for line in result.stderr.splitlines() if line.startswith("bias-tutorial sweep: ")]
    assert len(message) == 1 and "2 of 4 runs failed; the others are stored." in message[0]
    assert '"p": 0.5}, seed 1: ArithmeticError: no subjects left' in message[0]
    assert set(values(tmp_path)) == {(0.75, 0), (0.75, 1)}


@pytest.mark.parametrize("arguments, changes, said", [
    ((), {"more": "sedes: 3"}, "recipe.yml: field 'sedes' is unknown; a recipe has measure, settings, seeds, store"),
    ((), {"seeds": "3"}, "recipe.yml: 'seeds': seeds must be written \"a:b\" with a < b, got '3'"),
    ((), {"seeds": "0:901"}, "seeds 0 and 900 cannot be mixed"),
    (("--seeds", "4"), {}, "--seeds: seeds must be written"),
    (("--workers", "0"), {}, "workers must be a whole number of at least 1, got 0"),
    (("--scheduler", "tcp://127.0.0.1:1"), {}, "scheduler 'tcp://127.0.0.1:1' does not answer"),
])
def test_sweep_says_what_is_wrong_in_one_sentence(tmp_path, recipe, arguments, changes, said):
    result = run("sweep", recipe(**changes), *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    message = result.stderr.strip()
    assert message.startswith("bias-tutorial sweep: ") and said in message and "\n" not in message
    assert not (tmp_path / "out" / "runs.jsonl").exists()


def test_sweep_without_a_file_a_measure_or_dask(tmp_path, recipe, monkeypatch):
    missing = run("sweep", str(tmp_path / "none.yml"))
    assert missing.exit_code == 2 and "No such file" in missing.stderr and "none.yml" in missing.stderr
    path = Path(recipe())
    path.write_text(path.read_text().replace(":product", ":quotient"))
    wrong = run("sweep", str(path))
    assert wrong.exit_code == 2 and ":quotient' cannot be found" in wrong.stderr
    monkeypatch.setitem(sys.modules, "distributed", None)
    without = run("sweep", recipe(), "--scheduler", "tcp://127.0.0.1:1")
    assert without.exit_code == 2 and 'pip install "bias-tutorial[cluster]"' in without.stderr


def test_sweep_stopped_by_hand_says_so(recipe, monkeypatch):
    def stop(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "sweep", stop)
    stopped = run("sweep", recipe())
    assert stopped.exit_code == 130
    assert stopped.stderr == "bias-tutorial sweep: stopped; the same command continues from here\n"


def test_sweep_repeats_the_claims_of_a_chapter(tmp_path, monkeypatch):
    asked, same = [], True
    monkeypatch.setattr(claims_checks, "repeat", lambda *args, **kwargs: asked.append((args, kwargs)) or same)
    path = str(claims.STORED / "01_claims.yml")
    assert run("sweep", path, "--workers", "1").exit_code == 0
    same = False
    assert run("sweep", path, "--seeds", "0:2").exit_code == 1
    same = True
    assert run("sweep", path, "--scheduler", "tcp://127.0.0.1:1").exit_code == 0
    assert asked == [(("01",), {"workers": 1, "scheduler": None}),
                     (("01",), {"workers": 2, "scheduler": None, "seeds": (0, 1)}),
                     (("01",), {"workers": 2, "scheduler": "tcp://127.0.0.1:1"})]
    elsewhere = tmp_path / "01_claims.yml"
    elsewhere.write_bytes(Path(path).read_bytes())
    result = run("sweep", str(elsewhere))
    assert result.exit_code == 2 and "field 'claims' is unknown" in result.stderr


def test_the_installed_command_runs():
    """The script of the environment, in a process of its own, does not load torch to show its help."""
    script = Path(sys.executable).parent / "bias-tutorial"
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert "simulate" in done.stdout and "sweep" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded and not {"torch", "pandas", "bias_tutorial.storage"} & loaded


def test_classroom_builds_and_says_plainly_what_is_missing(tmp_path, monkeypatch):
    masters = Path(__file__).resolve().parents[1] / "book" / "exercises"
    result = run("classroom", "build", "--seed", "7", "--masters", str(masters), "--out", str(tmp_path / "dist"))
    assert result.exit_code == 0 and "hand out" in result.output
    assert (tmp_path / "dist" / "student" / "01_simulate_bias.ipynb").is_file()
    monkeypatch.chdir(tmp_path)
    result = run("classroom", "build")
    assert result.exit_code == 2 and "holds no master notebook" in result.output
    result = run("classroom", "grade", str(tmp_path / "none"), "--out", "grades.csv")
    assert result.exit_code == 2 and "there is no such folder" in result.output


@pytest.mark.parametrize(("options", "other_seed", "said"), [
    ((), 0, None), ((), 2, "another seed than the public one: 2."), (("--seed", "0"), 3, "another seed than 0: 3.")])
def test_a_grading_ends_with_what_is_left_to_do(tmp_path, monkeypatch, options, other_seed, said):
    from bias_tutorial.classroom import grade

    monkeypatch.setattr(grade, "grade", lambda *settings: grade.Report(5, 1, {"x": "is a link"}, False, 4, other_seed))
    result = run("classroom", "grade", str(tmp_path), "--out", str(tmp_path / "grades.csv"), *options)
    assert result.exit_code == 0 and "not graded: x is a link" in result.output
    for words in ("5 graded (1 from before), 1 not; feedback pages in", "grades_feedback",
                  "Open answers for a person to grade: 4, all on one page,", "grades_open_answers.html"):
        assert words in result.output, words
    assert said in result.output if said else "another seed" not in result.output


def test_a_capstone_is_made_and_its_form_scored(tmp_path):
    made = run("classroom", "capstone", "--seed", "12", "--out", str(tmp_path / "brief"), "--n", "1200")
    assert made.exit_code == 0 and "hand out" in made.output
    form, truth = next((tmp_path / "brief").rglob("answers.yml")), tmp_path / "brief" / "instructor" / "truth.json"
    empty = run("classroom", "score", str(form), "--truth", str(truth))
    assert empty.exit_code == 0 and "0 of 20" in empty.output
    missing = run("classroom", "score", str(form), "--truth", str(tmp_path / "no.json"))
    assert missing.exit_code == 2 and "no.json" in missing.output
    again = run("classroom", "capstone", "--seed", "12", "--out", str(tmp_path / "brief"), "--n", "1200")
    assert again.exit_code == 2 and "brief" in again.output
