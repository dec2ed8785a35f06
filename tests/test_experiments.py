"""The store of runs: it resumes, loses nothing, doubles nothing, and notices what was changed by hand."""

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import yaml

from bias_tutorial import experiments
from bias_tutorial.experiments import Store, check_seeds, plain, read_recipe, run_key, run_once, sweep

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


def deadly_at_two(settings, seed):
    """A measure that kills its process for seed 2 alone, as the system does when memory runs out."""
    if seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"process": os.getpid()}


def threads(settings, seed):
    """A measure of what torch may use here."""
    import torch  # here: the other measures of this file start faster without

    return {"threads": torch.get_num_threads(), "process": os.getpid()}


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
    for target in sorted(chance.sample(range(1, 30), 5)):
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
    assert kills == 5
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


def test_a_run_that_kills_its_process_stops_the_sweep_and_what_came_in_is_kept(tmp_path):
    with pytest.raises(RuntimeError, match="terminated"):
        sweep({}, "test_experiments:deadly_at_two", tmp_path / "d.jsonl", range(4), progress=False)
    done = sweep({}, "test_experiments:deadly_at_two", tmp_path / "d.jsonl", (0, 1, 3), progress=False)
    assert list(done["seed"]) == [0, 1, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_share_the_cores_evenly(tmp_path, workers, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    table = sweep({}, "test_experiments:threads", tmp_path / "t.jsonl", range(4), workers=workers, progress=False)
    alone = threads({}, 0)["threads"]
    assert set(table["threads"]) == {alone if workers == 1 else max(1, joblib.cpu_count() // workers)}
    assert (os.getpid() in set(table["process"])) == (workers == 1)


def test_a_worker_with_other_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "code_digest", lambda measure: "0" * 16)
    with pytest.raises(RuntimeError, match="3 of 3 runs failed.*seed 0: RuntimeError: the worker has other code"):
        sweep(SETTINGS[0], MEASURE, tmp_path / "a.jsonl", range(3), progress=False)
    assert Store(tmp_path / "a.jsonl").rows() == []


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


# ---------------------------------------------------------------------- recipes
RECIPE = {"measure": "m:f", "settings": {"a": 1}, "seeds": "0:3", "store": "runs/a.jsonl"}


def recipe(tmp_path, **changes):
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump({k: v for k, v in (RECIPE | changes).items() if v is not None}, sort_keys=False))
    return path


@pytest.mark.parametrize("settings, expanded", [
    ({"a": 1}, [{"a": 1}]),
    ({}, [{}]),
    ({"n": 5, "grid": {"p": [0.5, 0.7], "kind": ["near", "far"]}},
     [{"n": 5, "p": p, "kind": kind} for p in (0.5, 0.7) for kind in ("near", "far")]),
    ([{"a": 1}, {"grid": {"a": [2, 3]}}], [{"a": 1}, {"a": 2}, {"a": 3}]),
])
def test_a_recipe_holds_the_arguments_of_a_sweep(tmp_path, monkeypatch, settings, expanded):
    monkeypatch.setattr(sys, "path", sys.path[:])
    found = read_recipe(recipe(tmp_path, settings=settings))
    assert found == {"measure": "m:f", "settings": expanded, "seeds": (0, 1, 2), "store": tmp_path / "runs/a.jsonl"}
    assert str(tmp_path) in sys.path


@pytest.mark.parametrize("changes, said", [
    ({"seed": 3}, "field 'seed' is unknown; a recipe has measure, settings, seeds, store"),
    ({"store": None}, "field 'store' is missing"),
    ({"store": 3}, "'store' must be a text"),
    ({"measure": ""}, "'measure' must be a text that is not empty, got ''"),
    ({"seeds": "3:3"}, "'seeds': seeds must be written \"a:b\" with a < b, got '3:3'"),
    ({"seeds": [0, 1]}, r"seeds must be written .* got \[0, 1\]"),
    ({"settings": "near"}, "'settings' must be a mapping, or a list of mappings, got 'near'"),
    ({"settings": []}, "'settings' must be a mapping"),
    ({"settings": {"grid": {"p": 0.5}}}, "'grid' must map names to lists of values that are not empty, got {'p': 0.5}"),
    ({"settings": {"grid": {"p": []}}}, "'grid' must map names to lists"),
    ({"settings": {"p": 1, "grid": {"p": [2]}}}, "'p' stands beside and inside 'grid'"),
    ({"settings": {"p": float("nan")}}, "'settings' is nan, expected a finite number"),
])
def test_a_bad_recipe_is_named_with_its_field(tmp_path, changes, said):
    with pytest.raises(ValueError, match=f"recipe.yml: .*{said}"):
        read_recipe(recipe(tmp_path, **changes))


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    for text, said in (("a: [", "not a YAML file"), ("- a", "must hold the fields measure, settings, seeds, store")):
        (tmp_path / "recipe.yml").write_text(text)
        with pytest.raises(ValueError, match=f"recipe.yml: {said}"):
            read_recipe(tmp_path / "recipe.yml")
    with pytest.raises(FileNotFoundError, match="other.yml"):
        read_recipe(tmp_path / "other.yml")


# ---------------------------------------------------------------------- a cluster
def local_cluster(workers=2, threads=1):
    from distributed import LocalCluster

    return LocalCluster(n_workers=workers, threads_per_worker=threads, processes=True, dashboard_address=None,
                        silence_logs=logging.CRITICAL)


def test_a_cluster_that_loses_a_worker_gives_the_same_runs(tmp_path):
    from distributed import Client

    settings, store = {"scale": 1.0, "pause": 0.1}, tmp_path / "cluster.jsonl"
    with local_cluster() as cluster, Client(cluster) as client:
        first, second = client.run(os.getpid).values()

        def kill():
            while not store.exists() or store.read_bytes().count(b"\n") < 5:
                time.sleep(0.01)
            killed_at.append(store.read_bytes().count(b"\n"))
            os.kill(first, signal.SIGKILL)

        killed_at = []
        killer = threading.Thread(target=kill)
        killer.start()
        table = sweep(settings, MEASURE, store, range(30), progress=False, scheduler=cluster.scheduler_address)
        killer.join()
        assert not os.path.exists(f"/proc/{first}") and os.path.exists(f"/proc/{second}")
    assert 5 <= killed_at[0] < 28
    assert list(table["seed"]) == list(range(30)) and len(Store(store).rows()) == 30
    sweep(settings, MEASURE, tmp_path / "pool.jsonl", range(30), progress=False)
    assert content(store) == content(tmp_path / "pool.jsonl")


def test_a_cluster_of_one_does_the_runs_and_reports_those_that_failed(tmp_path):
    import dask

    def run(measure, seeds):
        return sweep({}, measure, tmp_path / f"{measure[17:]}.jsonl", seeds, progress=False,
                     scheduler=cluster.scheduler_address)

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), local_cluster(workers=1) as cluster:
        with pytest.raises(RuntimeError, match="1 of 4 runs failed.*seed 2: ZeroDivisionError: no subjects left"):
            run("test_experiments:fails_at_two", range(4))
        with pytest.raises(RuntimeError, match="runs failed.*seed 2: KilledWorker"):
            run("test_experiments:deadly_at_two", range(4))
        table = run("test_experiments:deadly_at_two", (0, 1, 3))
    assert sorted(row["seed"] for row in Store(tmp_path / "fails_at_two.jsonl").rows()) == [0, 1, 3]
    assert list(table["seed"]) == [0, 1, 3] and os.getpid() not in set(table["process"])


def test_a_cluster_that_goes_away_is_said_and_the_rest_is_done_later(tmp_path):
    settings, store = {"scale": 1.0, "pause": 0.1}, tmp_path / "gone.jsonl"
    cluster = local_cluster()

    def close():
        while not store.exists() or store.read_bytes().count(b"\n") < 3:
            time.sleep(0.01)
        cluster.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(RuntimeError, match="the cluster was lost; what came in is kept"):
        sweep(settings, MEASURE, store, range(30), progress=False, scheduler=cluster.scheduler_address)
    closer.join()
    before = store.read_bytes()
    assert 3 <= before.count(b"\n") < 30
    assert len(sweep(settings, MEASURE, store, range(30), progress=False)) == 30
    assert store.read_bytes().startswith(before)


def test_a_cluster_that_cannot_be_used_is_refused(tmp_path, monkeypatch):
    def run(scheduler):
        sweep(SETTINGS[0], MEASURE, tmp_path / "a.jsonl", range(2), progress=False, scheduler=scheduler)

    for address in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:port", "local"):
        with pytest.raises(ValueError, match=f"scheduler '{address}' does not answer .* expected tcp://host:port"):
            run(address)
    with local_cluster(workers=1, threads=2) as cluster, pytest.raises(ValueError, match="several jobs at once"):
        run(cluster.scheduler_address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "bias-tutorial\[cluster\]"'):
        run("tcp://127.0.0.1:1")
