"""Checkpoints of the training loop: a run goes on after any interruption, and never from what is not its own."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import SHORT, VALUES, Interrupting, _one_thread, check_same, cohort, run  # noqa: F401
from torch import nn

from bias_tutorial import environment, networks
from bias_tutorial.training import Recipe, fit, load


# ---------------------------------------------------------------------- going on after an interruption
@pytest.mark.parametrize("at", [2, 5, 7, 12, 15, 18])  # 2 reads before the loop, then 3 to train and 1 to validate
def test_a_run_that_was_interrupted_ends_as_if_it_was_not(tmp_path, at):
    data, path = cohort(), tmp_path / "made" / "run.pt"
    whole = run(data)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(data, images=Interrupting(data.images, at, stop)), checkpoint=path)
    done = len(load(path)["history"]) if path.exists() else 0
    assert done == max(0, at - 3) // 4
    check_same(whole, run(data, checkpoint=path), data)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


def test_several_interruptions_and_a_finished_run(tmp_path):
    data, path = cohort(), tmp_path / "run.pt"
    whole, stops = run(data), 0

    def stop():
        raise KeyboardInterrupt

    for _ in range(10):
        try:
            last = run(replace(data, images=Interrupting(data.images, 8, stop)), checkpoint=path)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 3
    check_same(whole, last, data)
    stored = path.read_bytes()
    check_same(whole, run(data, checkpoint=path, first=9), data)  # nothing is left to do
    assert path.read_bytes() == stored
    state = last[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load(path)["best"].items())


def test_a_resumed_run_stops_early_at_the_same_epoch(tmp_path):
    data, path = cohort(step=0.02), tmp_path / "run.pt"
    recipe = Recipe(epochs=12, batch_size=16, patience=2, learning_rate=0.03, shift=0)
    whole = run(data, recipe)

    def stop():
        raise KeyboardInterrupt

    reads = 2 + 4 * (len(whole[1]) - 1)  # until the last epoch has just begun
    with pytest.raises(KeyboardInterrupt):
        run(replace(data, images=Interrupting(data.images, reads + 1, stop)), recipe, checkpoint=path)
    assert len(load(path)["history"]) == len(whole[1]) - 1
    for _ in range(2):
        check_same(whole, run(data, recipe, checkpoint=path), data)


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(tmp_path):
    data, path = cohort(), tmp_path / "run.pt"
    program = ("import sys, os, signal; sys.path.insert(0, sys.argv[2]); import test_training as t\n"
               "data = t.cohort()\n"
               "die = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
               "images = t.Interrupting(data.images, int(sys.argv[3]), die)\n"
               "t.run(t.replace(data, images=images), checkpoint=sys.argv[1])")
    killed = subprocess.run([sys.executable, "-c", program, path, Path(__file__).parent, "9"], capture_output=True,
                            text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(load(path)["history"]) == 1
    check_same(run(data), run(data, checkpoint=path), data)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    data, path = cohort(), tmp_path / "run.pt"
    whole, save, calls = run(data), torch.save, []

    def half(content, file):
        calls.append(1)
        if len(calls) < 3:
            return save(content, file)
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="could not write '.*run.pt'.*No space left"):
        run(data, checkpoint=path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"] and len(load(path)["history"]) == 2
    check_same(whole, run(data, checkpoint=path), data)


def test_checkpoints_do_not_change_the_run(tmp_path):
    data = cohort()
    check_same(run(data), run(data, checkpoint=tmp_path / "run.pt"), data)


# ---------------------------------------------------------------------- checkpoints that are not this run's
def fp32(where):
    """The precision of a processor without native bf16."""
    return "fp32", "stated by the test"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "run.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "precision", fp32)
        run(cohort(), checkpoint=path)
    return path


def brighter():
    data = cohort()
    return replace(data, images=data.images + np.float32(0.01))  # the same names and labels, as in a simulated twin


@pytest.mark.parametrize(("what", "change"), [
    ("network", {"network": networks.CNN((8, 16))}),
    ("network", {"network": networks.CNN(activation=nn.ELU)}),  # weights of the same shapes
    ("network", {"network": networks.CNN(dropout=0.5)}),
    ("seed", {"seed": 1}),
    ("epochs", {"recipe": replace(SHORT, epochs=9)}),
    ("learning_rate", {"recipe": replace(SHORT, learning_rate=1e-3)}),
    ("shift", {"recipe": replace(SHORT, shift=1)}),
    ("precision", {"recipe": replace(SHORT, precision="bf16")}),
    ("cohort", {"cohort": cohort(75)}),
    ("cohort", {"cohort": brighter()}),
    ("cohort", {"cohort": cohort(disease=np.array(VALUES[2], dtype=object)[np.arange(72) // 2 % 2])}),
])
def test_a_checkpoint_of_another_run_is_refused(stored, what, change, monkeypatch):
    monkeypatch.setattr(environment, "precision", fp32)
    before = stored.read_bytes()
    given = {"network": networks.build("modern"), "cohort": cohort(), "recipe": SHORT, **change}
    with pytest.raises(ValueError, match=rf"checkpoint '.*run.pt' belongs to another {what} \(.*, here .*\); give"):
        fit(**given, device="cpu", progress=False, checkpoint=stored)
    assert stored.read_bytes() == before


def test_the_same_cohort_made_again_is_no_other(stored, monkeypatch):
    monkeypatch.setattr(environment, "precision", fp32)
    data = cohort()
    assert len(fit(networks.build("modern"), data, recipe=replace(SHORT, precision="auto"), device="cpu",
                   progress=False, checkpoint=str(stored))) == 4


@pytest.mark.parametrize(("content", "message"), [
    (lambda good: good[: len(good) // 2], "cannot be read"),
    (lambda good: good[:-1], "cannot be read"),
    (lambda good: b"", "cannot be read"),
    (lambda good: np.random.default_rng(0).bytes(5000), "cannot be read"),
    (lambda good: pickle.dumps({"owner": {}, "network": {}, "best": {}, "optimizer": {}, "history": Path()}),
     "cannot be read"),
    (lambda good: pickle.dumps([1, 2]), "cannot be read|is no checkpoint"),
])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, stored, content, message):
    path = tmp_path / "bad.pt"
    path.write_bytes(content(stored.read_bytes()))
    with pytest.raises(ValueError, match=rf"'.*bad.pt' ({message})"):
        run(cohort(), checkpoint=path)
    with pytest.raises(ValueError, match=rf"'.*bad.pt' ({message})"):
        load(path)


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], networks.build("modern").state_dict()])
def test_a_torch_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt' is no checkpoint of bias_tutorial.training.fit"):
        run(cohort(), checkpoint=tmp_path / "other.pt")


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"owner": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="trap.pt' cannot be read"):
        load(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_missing_checkpoint_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pt")
