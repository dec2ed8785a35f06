"""The planted faults (`make guards`) still fit the files in which they are planted."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import guards  # noqa: E402

IN_THE_REPOSITORY = [guard for guard in guards.GUARDS if not guard.file.startswith(guards.BUILT.as_posix())]


@pytest.mark.parametrize("guard", IN_THE_REPOSITORY, ids=lambda guard: guard.name)
def test_the_text_that_a_fault_replaces_is_there_once(guard):
    assert (ROOT / guard.file).read_text(encoding="utf-8").count(guard.find) == 1
    assert guard.put != guard.find and guard.says
