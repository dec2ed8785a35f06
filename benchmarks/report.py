"""What the benchmarks share: the head of a report with its table of targets, and how a measurement ends."""

import sys
from pathlib import Path

from bias_tutorial.files import to_json, write_text


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
