"""The files around the package: dependencies, workflows, licences, and what a wheel holds."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import bias_tutorial
from bias_tutorial import experiments

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Colab in August 2026, of what the package needs; the set-up contract (tests/colab.py) installs the same.
COLAB = {"python": "3.13.15", "numpy": "2.1.3", "pandas": "2.2.3", "scikit-learn": "1.6.1", "scipy": "1.16.3",
         "matplotlib": "3.10.0", "ipywidgets": "7.7.1", "ipython": "7.34.0", "ipykernel": "6.17.1", "torch": "2.11.0"}
IMPORT_NAMES = {"pil": "pillow", "markupsafe": "jinja2", "sklearn": "scikit-learn", "yaml": "pyyaml",
                "ipython": "ipython", "pptx": "python-pptx",
                "mdit_py_plugins": "mdit-py-plugins", "markdown_it": "markdown-it-py"}
DEVELOPMENT = {"nilearn"}  # only to remake the template


def tracked(root: Path = ROOT) -> list[Path]:
    """Every file of the repository: in git, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return [root / name for name in names if name and (root / name).is_file()]


def declared(*extras: str) -> dict[str, Requirement]:
    """Dependencies of the package and of the extras named, by canonical name."""
    table = PROJECT["project"]
    lines = table["dependencies"] + [line for extra in extras for line in table["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def pins() -> dict[str, str]:
    """Exact versions of requirements.txt, by canonical name."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for requirement in wanted:
        assert [s.operator for s in requirement.specifier] == ["=="], f"{requirement} is not pinned exactly"
    assert len({canonicalize_name(r.name) for r in wanted}) == len(wanted), "a package is pinned twice"
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in wanted}


# ---------------------------------------------------------------------- dependencies
def test_bounds_are_lower_bounds_at_or_below_colabs_versions():
    everything = declared(*PROJECT["project"]["optional-dependencies"])
    for name, requirement in everything.items():
        assert [s.operator for s in requirement.specifier] == [">="], f"{requirement} is not a lower bound alone"
        assert requirement.specifier.contains(COLAB.get(name, "9999")), f"Colab has {name} {COLAB.get(name)}"
    assert set(COLAB) - {"python"} <= set(everything)
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_colabs_versions_are_those_of_the_set_up_contract():
    tree = ast.parse((ROOT / "tests" / "colab.py").read_text(encoding="utf-8"))
    listed = next(ast.literal_eval(node.value) for node in tree.body
                  if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COLAB")
    versions = dict(line.split("==") for line in listed if "==" in line)
    assert versions == {name: COLAB[name] for name in versions}
    assert len(versions) >= 8


def test_pins_satisfy_the_bounds_and_cover_them():
    pinned = pins()
    for name, requirement in declared("readers", "book", "report", "classroom").items():
        assert name in pinned, f"{name} is in pyproject.toml but not in requirements.txt"
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is below {requirement}"


def test_this_environment_has_the_pinned_versions():
    """Skips nothing: the oldest versions are tested in an environment of their own, which the folder tells."""
    if Path(sys.prefix).name != ".venv":
        wanted = {name: next(iter(r.specifier)).version for name, r in declared().items()}
        assert all(Version(metadata.version(name)) >= Version(least) for name, least in wanted.items())
        return
    wrong = {name: metadata.version(name) for name, version in pins().items()
             if Version(metadata.version(name)).public != Version(version).public}
    assert not wrong, f"differs from requirements.txt: {wrong}"


def test_every_import_of_the_package_is_declared():
    """What a chapter can reach is a core dependency; readers and the check of the prose may use their extra."""
    core, all_extras = declared(), declared("readers", "book", "cluster", "report", "classroom")
    with_extra = {"prose.py", "sources.py", "claims_checks.py", "files.py", "table.py", "matlab.py", "cluster.py",
                  "report.py", "sheets.py", "host.py", "feedback.py", "student.py", "slides.py", "texts.py"}
    for path in sorted((ROOT / "bias_tutorial").rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
        for name in names - sys.stdlib_module_names - {"bias_tutorial"} - DEVELOPMENT:
            allowed = all_extras if path.name in with_extra else core
            assert IMPORT_NAMES.get(name.lower(), canonicalize_name(name)) in allowed, f"{path.name} imports {name}"
        assert not names & {"book", "tests", "benchmarks"}, f"{path.name} reaches out of the package"


def test_conda_environment_agrees():
    """One list of versions: environment.yml adds Python and the CPU build of torch to requirements.txt."""
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(d for d in wanted["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert Version(python.removeprefix("python=")) in Requirement(f"x{PROJECT['project']['requires-python']}").specifier
    assert [d for d in wanted["dependencies"] if isinstance(d, str)] == [python, "pip"]
    lines = next(d["pip"] for d in wanted["dependencies"] if isinstance(d, dict))
    assert lines == ["--extra-index-url https://download.pytorch.org/whl/cpu", "-r requirements.txt", "-e ."]
    assert "download.pytorch.org/whl/cpu" in (ROOT / "Makefile").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- workflows and make
def targets() -> dict[str, str]:
    """Targets of the Makefile that have a help text."""
    return dict(re.findall(r"^([a-z-]+):.*?## (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def test_make_help_lists_the_targets():
    wanted = {"book", "test", "test-oldest", "pages", "colab", "claims", "guards", "bench", "address", "help", "pdf",
              "zip", "preview", "classroom"}
    assert wanted <= set(targets())
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name, help_text in targets().items():
        assert re.search(rf"make {name}\s", text) and help_text.split(" (")[0] in text


def workflow(name: str) -> dict:
    """A workflow as GitHub reads it; YAML 1.1 turns its key `on` into True."""
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    return {**read, "on": read.get("on", read.get(True))}


def test_there_are_four_workflows():
    assert {p.stem for p in (ROOT / ".github" / "workflows").iterdir()} == {"test", "book", "scheduled", "preview"}


@pytest.mark.parametrize("name", ["test", "book", "scheduled", "preview"])
def test_workflows_only_call_make_in_a_shell_that_stops(name):
    read = workflow(name)
    assert read["defaults"]["run"]["shell"] == "bash", "GitHub adds -eo pipefail only where bash is named"
    commands = []
    for job in read["jobs"].values():
        assert job.get("timeout-minutes") or job.get("needs")
        assert not job.get("continue-on-error") and "if" not in job
        for step in job["steps"]:
            assert "shell" not in step and not step.get("continue-on-error") and "if" not in step
            assert ("run" in step) != ("uses" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step["uses"]
            elif step["run"] == "${{ matrix.command }}":
                commands += [entry["command"] for entry in job["strategy"]["matrix"]["include"]]
            else:
                commands.append(step["run"])
    assert commands
    for command in commands:
        words = re.fullmatch(r"make((?: [a-z-]+)+)((?: [A-Z]+=[\w/]+)*)", command)
        assert words and set(words[1].split()) <= set(targets()), f"{name}: '{command}' does not name make targets"


def test_workflows_run_when_they_should():
    branch = "main"
    test, book, scheduled = workflow("test"), workflow("book"), workflow("scheduled")
    preview = workflow("preview")
    (job,) = preview["jobs"].values()
    assert preview["on"] == {"pull_request": None} and preview["permissions"] == {"contents": "read"}
    assert job["steps"][0]["with"]["fetch-depth"] == 0, "the branch to compare with must be there"
    assert any(step.get("run", "").startswith(f"make preview BASE=origin/{branch}") for step in job["steps"])
    assert job["steps"][-1]["with"]["path"] == "book/_build/preview/index.html"
    assert test["on"] == {"push": {"branches": [branch]}, "pull_request": None}
    assert book["on"] == {"push": {"branches": [branch]}, "workflow_dispatch": None}
    assert set(scheduled["on"]) == {"schedule", "workflow_dispatch"}
    (cron,) = scheduled["on"]["schedule"]
    assert re.fullmatch(r"\d{1,2} \d{1,2} \* \* [0-6]", cron["cron"]), "once a week"
    matrix = scheduled["jobs"]["check"]["strategy"]["matrix"]["include"]
    ran = {(entry["python"], entry["command"].split()[1]) for entry in matrix}
    assert {("3.13", "test"), ("3.13", "test-oldest"), ("3.13", "colab")} <= ran
    assert any("FULL=1" in entry["command"] for entry in matrix)
    publish = book["jobs"]["publish"]["steps"][-1]["uses"]
    upload = next(s for s in book["jobs"]["build"]["steps"] if "upload-pages" in s.get("uses", ""))
    assert publish.startswith("actions/deploy-pages@") and upload["with"]["path"] == "book/_build/html"
    assert book["jobs"]["publish"]["needs"] == "build"
    assert book["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}


# ---------------------------------------------------------------------- licences, versions, texts
def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == bias_tutorial.__version__
    assert citation["cff-version"] == "1.2.0"
    for key in ("title", "message", "authors", "license", "repository-code"):
        assert citation[key]


def test_licences_and_the_notice_of_the_template():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    content = (ROOT / "LICENSE-CONTENT").read_text(encoding="utf-8")
    assert "Creative Commons Attribution 4.0 International Public License" in content
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in content
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    assert ("Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, "
            "McGill University. Permission to use, copy, modify, and distribute") in notice
    assert "10.1016/j.neuroimage.2010.07.033" in notice and "10.1016/S1053-8119(09)70884-5" in notice


def test_the_readme_leads_only_to_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("https://"):
            assert (ROOT / link).is_file(), f"README.md: there is no {link}"
    for chapter in re.findall(r"/(book/chapters/[\w.]+)\)", text):
        assert (ROOT / chapter).is_file(), f"README.md: there is no {chapter}"
    for name in re.findall(r"`(?:\.venv/bin/)?make ([a-z-]+)", text):
        assert name in targets(), f"README.md: there is no make {name}"
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)*(?:\.md|\.cff|\.yml)|LICENSE[\w-]*|NOTICE)`", text):
        assert (ROOT / name).is_file(), f"README.md: there is no {name}"
    announced = set(re.findall(r"chapters/(\d\d_\w+)\.ipynb", text))
    assert announced == {path.stem for path in (ROOT / "book" / "chapters").glob("*.ipynb")}


def test_what_the_readme_says_was_measured():
    values = json.loads((ROOT / "bias_tutorial" / "stored" / "measured.json").read_text(encoding="utf-8"))
    tags = re.findall(r"=measured:([\w.]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(tags) >= 6
    for tag in tags:
        group, name = tag.split(".")
        assert isinstance(values[group][name], int | float), f"stored/measured.json: {tag} was not measured yet"


def test_the_code_of_the_readme_runs(monkeypatch):
    """The readers and their arguments exist as the README calls them; the files are the reader's own."""
    import inspect

    from bias_tutorial import attribution, bids, evaluation, networks, training
    from bias_tutorial.datasets import simba, table

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    called = []
    steps = ((table, "read"), (bids, "from_bids"), (simba, "read"), (networks, "build"), (training, "fit"),
             (training, "predict"), (evaluation, "group_metrics"), (attribution, "smoothgrad"))
    answer = MagicMock()
    for module, function in steps:
        signature = inspect.signature(getattr(module, function))

        def check(*args, _name=module.__name__, _signature=signature, **kwargs):
            _signature.bind(*args, **kwargs)
            called.append(_name)
            return answer

        monkeypatch.setattr(module, function, check)
    scope = {}
    for block in blocks:
        exec(block, scope)
    assert called == [module.__name__ for module, _ in steps]


def test_the_recipe_of_the_readme_can_be_read(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "study.yml").write_text(block)
    recipe = experiments.read_recipe(tmp_path / "study.yml")
    assert [s["n_train"] for s in recipe["settings"]] == [500, 2000] and len(recipe["seeds"]) == 5
    experiments.find_measure(recipe["measure"])


MACHINE_PATH = re.compile(r"(?<![\w./])/(?:work|root|home|Users|opt|mnt)/[\w.-]+|[A-Z]:\\Users\\")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".json", ".jsonl", ".ipynb", ".csv", ".tsv", ".js",
                 ".css", ".html", ".svg", ".bib", ".txt", ".sh", ""}


def test_no_file_names_a_path_of_a_machine():
    found = []
    for path in tracked():
        if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve():
            hits = MACHINE_PATH.findall(path.read_text(encoding="utf-8", errors="replace"))
            found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert not found
    assert MACHINE_PATH.search("at /home/me/x") and not MACHINE_PATH.search("https://x.org/home/me")


def test_files_are_small_enough_to_read():
    """No source file of ours above 400 lines; what ships stays light."""
    long = [f"{path.relative_to(ROOT)}" for path in tracked() if path.suffix in (".py", ".js", ".css")
            and len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long
    stored = sum(path.stat().st_size for path in (ROOT / "bias_tutorial" / "stored").rglob("*") if path.is_file())
    assert stored < 10e6
    samples = [path for path in tracked() if path.is_relative_to(ROOT / "data" / "samples")]
    assert sum(path.stat().st_size for path in samples) < 1e6


def test_notebooks_are_kept_without_outputs():
    for path in [path for path in tracked() if path.suffix == ".ipynb" and path.is_relative_to(ROOT / "book")]:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None, f"{path.name}: run nbstripout"


# ---------------------------------------------------------------------- the wheel
def test_a_wheel_holds_code_data_and_licences(tmp_path):
    """Built from a copy of the tracked files, without a network; it holds all that the package reads at run time."""
    source = tmp_path / "source"
    for path in tracked():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q",
               "-w", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "bias-tutorial = bias_tutorial.cli:app" in archive.read(entry_points).decode()
    package = {path.relative_to(ROOT).as_posix() for path in tracked() if path.is_relative_to(ROOT / "bias_tutorial")}
    assert package - names == set()
    assert {"bias_tutorial/assets/mni152_t1_1mm.nii.gz", "bias_tutorial/assets/explore.js"} <= package
    info = f"bias_tutorial-{bias_tutorial.__version__}.dist-info"
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", "LICENSE-CONTENT", "NOTICE")} <= names
    assert {name.partition("/")[0] for name in names} == {"bias_tutorial", info}, "nothing else is installed"
