"""The public address of the repository: kept in pyproject.toml, copied by this script to every place that needs it.

    python book/address.py --url https://github.com/you/where-bias-hides [--ref v1.0]
    python book/address.py --check

Needs only the standard library. `make address URL=... REF=...` calls it; a test runs the check.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TEXTS = (".md", ".toml", ".yml", ".yaml", ".cff", ".ipynb", ".html")
MUST_NAME = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "book/_config.yml")
NOTEBOOKS = ("chapters", "exercises", "student")  # folders whose notebooks must have the set-up cell
SLUG = r"[\w-]+/[\w.-]*[\w-]"
HOSTS = r"colab\.research\.google\.com/github/|mybinder\.org/v2/gh/|git\+https://github\.com/"
NO_ADDRESS = "This copy has no public address yet, so Colab cannot install it."
CELL = re.compile(r"(<!-- set-up cell -->\n```python\n)(.*?)(?=```)", re.S)


class Address(NamedTuple):
    """Where the repository can be found: its URL, and the branch or tag that readers get."""

    url: str
    ref: str

    @property
    def slug(self) -> str:
        """Owner and name, as 'OWNER/where-bias-hides'."""
        return self.url.removeprefix("https://github.com/")

    @property
    def known(self) -> bool:
        """False while the owner is the placeholder."""
        return not self.slug.startswith("OWNER/")

    @property
    def pages(self) -> str:
        """Where GitHub Pages puts the book."""
        owner, name = self.slug.split("/")
        return f"https://{owner}.github.io/{name}"


def make_address(url: str, ref: str) -> Address:
    """Check an address; a ValueError says what was expected."""
    url = url.strip().rstrip("/").removesuffix(".git")
    if not re.fullmatch(rf"https://github\.com/{SLUG}", url):
        raise ValueError(f"the address must look like https://github.com/you/where-bias-hides, got '{url}'")
    if not re.fullmatch(r"\w[\w.-]*", ref):
        raise ValueError(f"the branch or tag must be a name such as main or v1.0, got '{ref}'")
    return Address(url, ref)


def read_address(root: Path = ROOT) -> Address:
    """The address that pyproject.toml states."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["where-bias-hides"]
    return make_address(table["address"], table["ref"])


def setup_cell(address: Address) -> str:
    """The literal set-up cell of every chapter; without an address it says so on Colab, and only there."""
    source = f"git+{address.url}@{address.ref}"
    if address.known:
        install = [f"    !pip install -qq {source}"]
    else:
        install = [f'    course = "{source}"',
                   f'    assert "/OWNER/" not in course, "{NO_ADDRESS}"',
                   "    !pip install -qq {course}"]
    lines = ["import sys", 'if "google.colab" in sys.modules:', *install, "import bias_tutorial; bias_tutorial.ready()"]
    return "\n".join(lines)


def rewrite(text: str, old: Address, new: Address) -> str:
    """Replace the old address by the new one, in each form in which it occurs in a text."""
    slug, ref = re.escape(old.slug), re.escape(old.ref)
    host = rf"(github\.com/|{HOSTS}){slug}"
    text = re.sub(rf"{host}(@|/blob/|/tree/|/){ref}(?![\w-])", rf"\g<1>{new.slug}\g<2>{new.ref}", text)
    text = re.sub(rf"{host}(?![\w-])", rf"\g<1>{new.slug}", text)
    text = re.sub(rf"{re.escape(old.pages)}(?![\w-])", new.pages, text)
    return CELL.sub(lambda found: f"{found[1]}{setup_cell(new)}\n", text)


def rewrite_file(path: Path, text: str, old: Address, new: Address) -> str:
    """The text of one file with the new address, the set-up cell of a notebook and the bare references included."""
    if path.suffix == ".ipynb":
        notebook = json.loads(text)
        cell = setup(notebook)
        if cell is not None:
            cell["source"] = setup_cell(new).splitlines(keepends=True)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    text = rewrite(text, old, new)
    if path.name == "pyproject.toml":
        text = re.sub(r'^ref = ".*"$', f'ref = "{new.ref}"', text, flags=re.M)
    if path.name == "_config.yml":
        text = re.sub(r"^  branch: .*$", f"  branch: {new.ref}", text, flags=re.M)
    return text


def setup(notebook: dict) -> dict | None:
    """The set-up cell of a notebook: the code cell that asks whether it runs on Colab; None when there is none."""
    code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return next((cell for cell in code if '"google.colab" in sys.modules' in "".join(cell["source"])), None)


def files(root: Path) -> list[Path]:
    """Every text file of the repository, by name."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [root / name for name in sorted(filter(None, listed.split("\0")))
            if name.endswith(TEXTS) and (root / name).is_file()]


def change(new: Address, root: Path = ROOT) -> list[str]:
    """Write the new address everywhere; returns the names of the changed files."""
    old, changed = read_address(root), []
    for path in files(root):
        before = path.read_text(encoding="utf-8")
        after = rewrite_file(path, before, old, new)
        if after != before:
            half = path.with_name(f".{path.name}.new")
            half.write_text(after, encoding="utf-8", newline="\n")
            os.chmod(half, path.stat().st_mode)
            os.replace(half, path)
            changed.append(path.relative_to(root).as_posix())
    return changed


def disagreements(root: Path = ROOT) -> list[str]:
    """One line for each place that does not agree with pyproject.toml; empty when all do."""
    address = read_address(root)
    wrong = [f"{name}: is not there" for name in MUST_NAME if not (root / name).is_file()]
    for path in files(root):
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if name in MUST_NAME and address.url not in text:
            wrong.append(f"{name}: does not name {address.url}")
        for found in re.finditer(rf"(?:{HOSTS})({SLUG})(?:@|/blob/|/)([\w.-]*[\w-])", text):
            if found.groups() != (address.slug, address.ref):
                wrong.append(f"{name}: {found[0]} should lead to {address.slug}, {address.ref}")
        if rewrite_file(path, text, address, address) != text:
            wrong.append(f"{name}: the set-up cell or the branch is not what book/address.py writes")
        if address.known and "OWNER/" in text.replace('"/OWNER/"', ""):
            wrong.append(f"{name}: still has the placeholder OWNER")
        if path.suffix == ".ipynb" and path.parent.name in NOTEBOOKS and setup(json.loads(text)) is None:
            wrong.append(f"{name}: has no set-up cell")
    return wrong


def main() -> int:
    """Change or check the address; 1 when something disagrees, 2 for an impossible address."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="such as https://github.com/you/where-bias-hides; kept when not given")
    parser.add_argument("--ref", help="branch or tag that readers get; kept when not given")
    parser.add_argument("--check", action="store_true", help="only say where copies disagree")
    options = parser.parse_args()
    now = read_address()
    if options.check or not (options.url or options.ref):
        wrong = disagreements()
        print("\n".join(wrong) or f"Every copy agrees: {now.url}, {now.ref}")
        return int(bool(wrong))
    try:
        new = make_address(options.url or now.url, options.ref or now.ref)
    except ValueError as error:
        print(f"make address: {error}", file=sys.stderr)
        return 2
    changed = change(new)
    print(f"The address is {new.url}, {new.ref}. Changed: {', '.join(changed) or 'nothing, it was so already'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
