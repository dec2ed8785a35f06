"""What the benchmarks share: command line, load of the machine, head of a report, and how a measurement ends."""

import argparse
import os
import sys
from pathlib import Path

from bias_tutorial.files import to_json, write_text


def command_line(name, doc):
    """Parser of ``python -m benchmarks.<name>`` with ``--short``, described by the first line of the module."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tries the benchmark; its numbers mean nothing")
    return parser


def with_load(measure, *given, **more):
    """What ``measure`` gives, and as ``load`` the load of the machine before and after."""
    before = os.getloadavg()[0]
    return measure(*given, **more) | {"load": [before, os.getloadavg()[0]]}


def opening(title, command, targets):
    """First lines of a report; a target is (what, measured, bound, met)."""
    return [f"# {title}", "", f"Written by `python -m {command}`; not edited by hand.", "",
            "| What | Measured | Target | Met |", "|---|---|---|---|",
            *(f"| {what} | {value:.3g} | {bound} | {'yes' if met else '**no**'} |"
              for what, value, bound, met in targets)]


def finish(name, results, lines, targets, keep):
    """Print a report; keep it as ``name.md`` and its numbers as ``name.json``; leave with 1 if a target is missed."""
    text = "\n".join([*lines, ""])
    print(text)
    if keep:
        write_text(Path(__file__).with_name(f"{name}.json"), to_json(results))
        write_text(Path(__file__).with_name(f"{name}.md"), text)
    missed = [what for what, _, _, met in targets if not met]
    if missed:
        sys.exit("missed: " + "; ".join(missed))
