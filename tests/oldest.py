"""Print requirements with the oldest versions that ``pyproject.toml`` allows, and the test tools as pinned.

torch and torchvision keep the pins of ``requirements.txt``: their older CPU builds are not on every package index, and
the CUDA builds would take 5 GB for a test that uses no GPU. packaging: the test that builds a wheel needs it newer.
nilearn is older than its pin, which asks for a newer pandas; what the tests read from it is the same.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Asks for a newer IPython than Colab's; only who makes and grades sheets needs it, not a student.
LEFT_OUT = {"nbgrader"}
AS_PINNED = {"torch", "torchvision", "packaging"}
OLDER_TOOLS = {"nilearn": "nilearn==0.13.1"}


def oldest() -> list[str]:
    """One requirement a line: lower bounds turned into pins, then every pin that has no lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["readers"]]]
    bounds = {canonicalize_name(r.name): next(s.version for s in r.specifier if s.operator == ">=") for r in declared}
    pins = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    old = [f"{name}=={version}" for name, version in bounds.items() if name not in AS_PINNED]
    rest = [pin for pin in pins if pin and not pin.startswith("-")
            and (name := canonicalize_name(re.split(r"[=<>\[ ]", pin)[0])) not in bounds.keys() - AS_PINNED and name
            and name not in LEFT_OUT]
    return old + [OLDER_TOOLS.get(pin.split("==")[0], pin) for pin in rest]


if __name__ == "__main__":
    print("\n".join(oldest()))
