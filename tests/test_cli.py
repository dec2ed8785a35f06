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

from bias_tutorial import bids, cli, environment, simulate, storage
from bias_tutorial.scenario import preset

SMALL = ("--n", "24", "--shape", "36x30", "--workers", "1")


def run(*arguments: str):
    """Call the command in this process; an exception that is not its own exit is raised."""
    result = CliRunner().invoke(cli.app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_help_names_the_commands():
    for arguments in (("--help",), ("doctor", "--help"), ("simulate", "--help")):
        result = run(*arguments)
        assert result.exit_code == 0
    assert {"doctor", "simulate"} == {command.callback.__name__ for command in cli.app.registered_commands}
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


def test_the_installed_command_runs():
    """The script of the environment, in a process of its own, does not load torch to show its help."""
    script = Path(sys.executable).parent / "bias-tutorial"
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert "simulate" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded and not {"torch", "pandas", "bias_tutorial.storage"} & loaded
