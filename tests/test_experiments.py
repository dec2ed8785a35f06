"""The store of runs: it resumes, loses nothing, doubles nothing, and notices what was changed by hand."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bias_tutorial.experiments import Store, check_seeds, plain, run_key, run_once, sweep

MEASURE = "test_experiments:draws"
SETTINGS = [{"scale": 1.0}, {"scale": 2.5}]
HERE = Path(__file__).parent


def draws(settings, seed):
    """A measure: the mean of 50 normal draws, after as many seconds of sleep as the settings ask for."""
    time.sleep(settings.get("pause", 0))
    values = settings["scale"] * np.random.default_rng(seed).standard_normal(50)
    return {"mean": values.mean(), "mean_interval": [values.mean() - 1, values.mean() + 1], "n": np.int64(50)}


def fails_at_two(settings, seed):
    """A measure that raises for seed 2 alone."""
    if seed == 2:
        raise ZeroDivisionError("no subjects left")
    return {"value": float(seed)}


@pytest.fixture(autouse=True)
def _measures_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def content(store):
    """What a store says, without when and how long."""
    return {row["key"]: (row["settings"], row["seed"], row["results"]) for row in Store(store).rows()}


def test_runs_every_setting_and_seed_once_and_resumes(tmp_path):
    store = tmp_path / "runs" / "draws.jsonl"
    table = sweep(SETTINGS, MEASURE, store, range(3), workers=1, progress=False)
    assert list(table["seed"]) == [0, 1, 2] * 2 and list(table["scale"]) == [1.0] * 3 + [2.5] * 3
    expected = np.random.default_rng(2).standard_normal(50).mean() * 2.5
    assert table["mean"].iloc[-1] == pytest.approx(expected, rel=1e-12)
    first = store.read_bytes()
    sweep(SETTINGS, MEASURE, store, range(3), workers=1, progress=False)
    assert store.read_bytes() == first
    more = sweep(SETTINGS, MEASURE, store, range(5), workers=1, progress=False)
    assert len(more) == 10 and store.read_bytes().startswith(first)


def test_workers_give_the_same_values(tmp_path):
    sweep(SETTINGS, MEASURE, tmp_path / "one.jsonl", range(4), workers=1, progress=False)
    sweep(SETTINGS, MEASURE, tmp_path / "two.jsonl", range(4), workers=2, progress=False)
    assert content(tmp_path / "one.jsonl") == content(tmp_path / "two.jsonl")


def test_each_row_says_where_it_comes_from(tmp_path):
    sweep(SETTINGS[0], MEASURE, tmp_path / "a.jsonl", [7], workers=1, progress=False)
    row, = Store(tmp_path / "a.jsonl").rows()
    assert row["key"] == run_key(MEASURE, SETTINGS[0], 7) and row["seed"] == 7 and row["measure"] == MEASURE
    assert row["version"] and row["platform"] and row["code"] and row["made"].endswith("Z") and row["seconds"] >= 0
    assert row["results"]["n"] == 50 and len(row["results"]["mean_interval"]) == 2


def test_the_code_digest_follows_what_the_measure_imports(tmp_path, monkeypatch):
    from bias_tutorial import experiments

    seen = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path.name) or real(path))
    experiments.code_digest.cache_clear()
    before = experiments.code_digest("bias_tutorial.stratify:assign")
    assert {"stratify.py", "cohort.py"} <= set(seen) and "plotting.py" not in seen
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + b"\n#" * (path.name == "cohort.py"))
    experiments.code_digest.cache_clear()
    assert experiments.code_digest("bias_tutorial.stratify:assign") != before
    experiments.code_digest.cache_clear()


def test_the_key_follows_measure_settings_and_seed_but_not_their_order():
    assert run_key("m:f", {"a": 1, "b": 2}, 0) == run_key("m:f", {"b": 2, "a": 1}, 0)
    assert len({run_key("m:f", {"a": 1}, 0), run_key("m:g", {"a": 1}, 0), run_key("m:f", {"a": 2}, 0),
                run_key("m:f", {"a": 1}, 1)}) == 4


def test_a_line_torn_at_any_byte_is_done_again(tmp_path):
    whole = tmp_path / "whole.jsonl"
    sweep(SETTINGS[0], MEASURE, whole, range(3), workers=1, progress=False)
    data = whole.read_bytes()
    last = data.rfind(b"\n", 0, -1) + 1
    for cut in range(last, len(data), 23):
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(data[:cut])
        assert len(Store(torn).rows()) == 2
        sweep(SETTINGS[0], MEASURE, torn, range(3), workers=1, progress=False)
        assert content(torn) == content(whole) and torn.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_it_loses_and_doubles_nothing(tmp_path, workers):
    settings = {"scale": 1.0, "pause": 0.05}
    store, seeds = tmp_path / "killed.jsonl", 40
    code = (f"import sys; sys.path.insert(0, {str(HERE)!r}); from bias_tutorial.experiments import sweep\n"
            f"sweep({settings!r}, {MEASURE!r}, {str(store)!r}, range({seeds}), workers={workers})")
    chance, kills = random.Random(workers), 0
    for target in (1, 6, 12, 20):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if store.exists() and store.read_bytes().count(b"\n") >= target:
                time.sleep(chance.random() * 0.04)
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait(timeout=60) == -signal.SIGKILL
    assert kills >= 3
    before = len(Store(store).rows())
    assert 0 < before < seeds
    with open(store, "ab") as file:  # and the worst place of all to be killed
        file.write(b'{"key": "half a li')
    sweep(settings, MEASURE, store, range(seeds), workers=1, progress=False)
    sweep(settings, MEASURE, tmp_path / "calm.jsonl", range(seeds), workers=1, progress=False)
    assert content(store) == content(tmp_path / "calm.jsonl")
    assert store.read_bytes().count(b"\n") == seeds


def test_a_changed_or_doubled_run_is_noticed(tmp_path):
    store = tmp_path / "a.jsonl"
    sweep(SETTINGS[0], MEASURE, store, range(2), workers=1, progress=False)
    lines = store.read_text().splitlines(keepends=True)
    row = json.loads(lines[1])
    row["results"]["mean"] += 1e-6
    store.write_text(lines[0] + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="line 2.*was changed"):
        Store(store).rows()
    store.write_text(lines[0] * 2)
    with pytest.raises(ValueError, match="line 2.*line 1 already"):
        Store(store).rows()
    store.write_text("not json\n" + lines[0])
    with pytest.raises(ValueError, match="line 1: not a stored run"):
        Store(store).rows()


def test_one_failed_run_does_not_stop_the_others(tmp_path):
    with pytest.raises(RuntimeError, match=r"1 of 4 runs failed.*seed 2: ZeroDivisionError: no subjects left"):
        sweep({}, "test_experiments:fails_at_two", tmp_path / "f.jsonl", range(4), workers=1, progress=False)
    assert [row["seed"] for row in Store(tmp_path / "f.jsonl").rows()] == [0, 1, 3]


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    store = Store(tmp_path / "a.jsonl")
    row = run_once(MEASURE, SETTINGS[0], 0)
    store.append(row)
    whole = store.path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.append(run_once(MEASURE, SETTINGS[0], 1))
    assert store.path.read_bytes() == whole


def test_the_estimate_comes_first_and_again_on_resume(tmp_path, capsys):
    settings = {"scale": 1.0, "pause": 0.05}
    sweep(settings, MEASURE, tmp_path / "a.jsonl", range(3), workers=1)
    assert re.match(r"2 runs of about 0\.\d s on 1 workers: about 0\.1 minutes", capsys.readouterr().out)
    sweep(settings, MEASURE, tmp_path / "a.jsonl", range(5), workers=1)
    assert capsys.readouterr().out.startswith("2 runs of about")


def test_two_sweeps_cannot_write_to_one_store(tmp_path):
    store = Store(tmp_path / "a.jsonl")
    with store.lock(), pytest.raises(RuntimeError, match="another sweep is writing"):
        sweep(SETTINGS[0], MEASURE, tmp_path / "a.jsonl", [0], workers=1, progress=False)


def test_pilot_seeds_never_mix_with_counted_seeds():
    assert check_seeds([0, 1, 1]) == [0, 1] and check_seeds(range(900, 903)) == [900, 901, 902]
    with pytest.raises(ValueError, match="pilot"):
        check_seeds([5, 900])
    with pytest.raises(ValueError, match="at least 0"):
        check_seeds([])
    with pytest.raises(ValueError, match="at least 0"):
        check_seeds([-1])


def test_bad_measures_and_results_are_refused(tmp_path):
    for name in ("no_such_module:f", "math:no_such_function", "math:pi", "math"):
        with pytest.raises(ValueError, match="measure"):
            sweep({}, name, tmp_path / "a.jsonl", [0])
    assert plain({"a": np.arange(2), "b": (np.float32(1), None)}, "x") == {"a": [0, 1], "b": [1.0, None]}
    for bad in (float("nan"), np.inf, [1.0, float("nan")], {1, 2}):
        with pytest.raises(ValueError, match="expected a finite number"):
            plain(bad, "x")
