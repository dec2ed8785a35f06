"""The command ``cxr``: from a damaged table to a report that names nobody; killed and continued, or refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from bias_tutorial import audit, cli
from bias_tutorial.audit import command, study
from bias_tutorial.datasets.cxr import FINDINGS
from bias_tutorial.simulate.cxr_embeddings import CxrDesign, cxr_embeddings

sys.path.insert(0, str(Path(__file__).parent))
from test_tfrecord import example, write  # noqa: E402

WIDTH, STUDIES = 115, 1200
RACES = dict(zip("ABCDE", ("WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN - CHINESE", "<script>alert('race')</script>",
                           "=HYPERLINK(1)"), strict=True))
PLANS = {"plan 1": "Medicare", "plan 2": "Medicaid", "plan 3": "Private"}
OPTIONS = ("--width", str(WIDTH), "--resample", "counts", "--by", "sex", "--epochs", "4", "--draws", "100")


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["cxr", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def lines(n=STUDIES, seed=0):
    """A table of the set's form, and an embedding for every line."""
    cohort = cxr_embeddings(CxrDesign(prevalence={f: 0.25 for f in CxrDesign().prevalence}), n, seed, WIDTH)
    table = cohort.table
    rows = pd.DataFrame({"subject_id": 77000000 + table["patient_id"].str[1:].astype(int),
                         "study_id": 88000000 + np.arange(n), "dicom_id": [f"{k:06x}-dead-beef" for k in range(n)],
                         "gender": table["sex"], "race": table["race"].map(RACES),
                         "anchor_age": table["age"].astype(int).astype(str),
                         "insurance": table["insurance"].map(PLANS)})
    labels = table[list(FINDINGS)].astype(float).astype(str)
    labels.loc[::9, list(FINDINGS[:4])] = "-1.0"
    return pd.concat([rows, labels.where(labels != "0.0", "")], axis=1), np.array(cohort.images)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A table with faults of every kind, under a name that is none of a file one would like."""
    folder = tmp_path_factory.mktemp("set")
    table, vectors = lines()
    table.loc[[3, 4, 5], "anchor_age"] = ["old", "141", "-3"]
    table.loc[np.arange(10, 24), "Edema"] = "2"
    table.loc[30, "dicom_id"] = table.loc[31, "dicom_id"]
    table.loc[40, "gender"] = "unknown to us"
    vectors[50], vectors[51, 3] = 0, np.nan
    csv = folder / "meta<script>alert(1)<script>.csv"
    table.to_csv(csv, index=False)
    np.save(folder / "all.npy", vectors)
    return csv, folder / "all.npy", table


@pytest.fixture(scope="module")
def done(damaged, tmp_path_factory):
    """The audit of it, by the command."""
    out = tmp_path_factory.mktemp("done") / "out"
    result = run("--csv", damaged[0], "--embeddings", damaged[1], "--out", out, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert "report.html: open it in a browser" in result.output
    return out


def tables(out):
    return {path.stem: pd.read_csv(path) for path in sorted((out / "tables").glob("*.csv"))}


class Page(HTMLParser):
    """Tags in order with their attributes, tables outside a scrolling box, headers without a scope, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.wrong = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "table" and not any(a.get("class") == "scroll" for t, a in self.open if t == "div"):
            self.wrong.append("a table outside a box that scrolls")
        if tag == "th" and attrs.get("scope") not in ("col", "row", "rowgroup"):
            self.wrong.append("a header without scope")
        self.open.append((tag, attrs))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        self.text += data


# ---------------------------------------------------------------------- the report
def test_report_needs_nothing_from_outside_and_can_be_read_by_everybody(done):
    source = (done / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(names)
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    addresses = {value for _, attrs in page.tags for key, value in attrs.items() if key in ("href", "src")}
    assert addresses and all(value.startswith("#") for value in addresses)
    assert addresses - {f"#{a['id']}" for _, a in page.tags if "id" in a} == set(), "a link that leads nowhere"
    assert set(re.findall(r"https?://[^\"' <]+", source)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", source)
    figures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(figures) >= 5 and all(a["role"] == "img" and len(a["aria-label"]) > 100 for a in figures)
    assert names.count("table") == names.count("caption") >= 15 and not page.wrong
    assert "prefers-color-scheme: dark" in source and 'name="viewport"' in source
    assert page.text.index("Summary") < page.text.index("What must not be concluded") < page.text.index("What was read")


def test_text_of_the_table_and_its_name_are_escaped(done):
    source = (done / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(&#39;race&#39;)&lt;/script&gt;" in source  # in more than fifty rows, so it is named
    assert "meta&lt;script&gt;alert(1)&lt;script&gt;.csv" in source
    assert "<script" not in source
    detail = tables(done)["input"]["detail"]
    assert "'=HYPERLINK(1)" in set(detail), "a spreadsheet would run it"


def test_nobody_is_named_and_no_small_count_is_shown(done, damaged):
    table = damaged[2]
    written = [path for path in done.rglob("*") if path.is_file() and study.WORK not in path.parts]
    assert {"report.html", "run.json"} < {path.name for path in written} and len(written) >= 14
    everything = b"\n".join(path.read_bytes() for path in written)
    for column in ("subject_id", "study_id", "dicom_id"):
        assert not any(str(value).encode() in everything for value in table[column].unique()), column
    counts = {"input": ["number"], "labels": ["1", "blank", "uncertain"], "prevalence": ["known", "present"],
              "groups": ["patients", "studies", "test_patients"],
              "procedures": ["training_studies", "different_studies"],
              "metrics": ["studies", "patients", "patients_with", "patients_without"], "gaps": ["smallest_n"],
              "underdiagnosis": ["patients_with_a_finding"]}
    found, hidden = tables(done), 0
    for name, columns in counts.items():
        for cell in found[name][columns].astype(object).to_numpy().ravel():
            if isinstance(cell, str) and not cell.isdigit():
                assert cell in ("<10", "not shown")
                hidden += 1
            elif cell == cell:
                assert int(cell) >= 10 and int(cell) % 10 == 0, (name, cell)
    assert hidden > 20
    assert "unknown to us" not in everything.decode(errors="ignore"), "a text of one row"


def test_rates_are_given_where_enough_patients_stand_behind_them_and_nowhere_else(done):
    metrics = tables(done)["metrics"]
    few = metrics["reason"].notna()
    assert 0.05 < few.mean() < 0.95
    rates = ["auc", "average_precision", "fnr", "fnr_low", "fpr_high", "calibration_error"]
    assert metrics.loc[few, rates].isna().all(axis=None) and metrics.loc[~few, rates].notna().all(axis=None)
    counted = metrics.loc[~few, ["patients_with", "patients_without"]].astype(float)
    assert counted.min(axis=None) >= 10
    assert set(metrics["rule"]) == set(study.RULES)
    assert metrics.loc[metrics["group"] == "all", "auc"].mean() > 0.75, "the networks learned something"


def test_what_is_left_out_is_counted_by_reason(done):
    found = tables(done)["input"]
    by_reason = dict(zip(found["detail"].fillna(found["what"]), found["number"], strict=True))
    assert by_reason["label other than 1, 0, -1 and blank"] == "10"  # fourteen
    for reason in ("age is not a number", "age outside 0 to 120", "dicom_id stands in lines that contradict each other",
                   "embedding is all zeros, as a failed read may leave it", "embedding holds NaN or infinite values"):
        assert by_reason[reason] == "<10", reason
    assert by_reason["studies read"] == "1200" and by_reason["studies kept"] == "1170"  # 1,179
    sex = found[found["what"] == "sex not known"]
    assert sex["detail"].tolist() == ["(texts that stand in few rows)"]


def test_logs_and_record_hold_the_run(done, damaged):
    record = json.loads((done / "run.json").read_text())
    assert record["settings"]["resample"] == ["plain", "counts"] and record["settings"]["seed"] == 0
    assert record["inputs"]["table_sha256"] == study.digest(damaged[0])
    assert record["inputs"]["embeddings_sha256"] == [study.digest(damaged[1])]
    assert {"torch", "numpy", "bias_tutorial"} <= set(record["versions"])
    training = tables(done)["training"]
    for name, part in training.groupby("procedure"):
        logs = EventAccumulator(str(done / "tensorboard" / name)).Reload()
        assert [event.step for event in logs.Scalars("train_loss")] == part["epoch"].tolist()
        assert [e.value for e in logs.Scalars("validation_loss")] == pytest.approx(part["validation_loss"], abs=1e-4)


# ---------------------------------------------------------------------- killed, continued, refused
def test_a_killed_run_continues_to_the_same_numbers(done, damaged, tmp_path):
    """Killed without warning in the first training, then between the procedures."""
    call = ["cxr", "--csv", damaged[0], "--embeddings", damaged[1], "--out", tmp_path / "out", *OPTIONS]
    start = [sys.executable, "-c", "from bias_tutorial.cli import app; app()", *map(str, call)]
    work = tmp_path / "out" / study.WORK
    for until in ("plain.pt", "plain.json"):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        limit = time.monotonic() + 600
        while not (work / until).exists():
            assert process.poll() is None and time.monotonic() < limit, f"ended before {until} was there"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "out" / "report.html").exists()
    kept = (work / "plain.json").stat().st_mtime_ns
    assert run(*call[1:]).exit_code == 0
    assert (work / "plain.json").stat().st_mtime_ns == kept, "what was finished is not done again"
    names = sorted(path.relative_to(done) for folder in ("tables", study.WORK) for path in (done / folder).iterdir()
                   if path.suffix != ".pt")
    assert len(names) >= 16
    for name in (*names, Path("run.json"), Path("report.html")):
        assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes(), name


@pytest.mark.parametrize(("changes", "message"), [
    (("--seed", "1"), "holds an audit with another seed: 0, here 1; give another folder, or delete this one"),
    (("--resample", "reweighing"), r"another resample: \[\"plain\", \"counts\"\], here"),
    (("--policy", "negative"), 'another policy: "missing", here "negative"'),
])
def test_another_run_in_the_same_folder_is_refused(done, damaged, changes, message):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    result = run("--csv", damaged[0], "--embeddings", damaged[1], "--out", done, *OPTIONS, *changes)
    assert result.exit_code == 2 and re.search(message, result.output), result.output
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_another_table_of_the_same_name_is_refused(done, damaged, tmp_path):
    csv = tmp_path / damaged[0].name
    damaged[2].assign(insurance="Other").to_csv(csv, index=False)
    result = run("--csv", csv, "--embeddings", damaged[1], "--out", done, *OPTIONS)
    assert result.exit_code == 2 and "another table sha256" in result.output


# ---------------------------------------------------------------------- input that cannot be used
def other_width(folder, table, vectors):
    np.save(folder / "all.npy", vectors[:, :50])


def truncated(folder, table, vectors):
    (folder / "all.npy").unlink()
    (folder / "all.npy").mkdir()
    for name, vector in zip(table["dicom_id"][:40], vectors, strict=False):
        path = folder / "all.npy" / f"{name}.tfrecord"
        write(path, example(embedding=vector))
        path.write_bytes(path.read_bytes()[:-9])


def edited(**columns):
    def change(folder, table, vectors):
        table.assign(**columns).to_csv(folder / "t.csv", index=False)
    return change


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder, table, _: table.drop(columns="anchor_age").to_csv(folder / "t.csv", index=False),
     "no column 'anchor_age', expected one"),
    (edited(anchor_age="middle-aged"), "none of 40 rows can be used: age is not a number (40)"),
    (edited(anchor_age=200), "age outside 0 to 120 (40)"),
    (edited(Edema=7), "label other than 1, 0, -1 and blank (40)"),
    (edited(dicom_id="same"), "dicom_id stands in lines that contradict each other (40)"),
    (edited(race="Martian", gender="F"), "patients are too few for an audit"),
    (other_width, "expected real numbers of shape (40, 115)"),
    (truncated, "embedding cannot be read (40)"),
    (lambda folder, *_: (folder / "all.npy").unlink(), "there is no such folder or .npy file of embeddings"),
    (lambda folder, *_: (folder / "t.csv").unlink(), "there is no such table"),
    (lambda folder, *_: (folder / "t.csv").write_bytes(b"subject_id\n\xff\xfe"), "cannot be read as a table"),
    (lambda folder, *_: (folder / "out").mkdir() or (folder / "out" / "thesis.doc").touch(), "holds other files"),
    (lambda folder, *_: (folder / "out").mkdir() or (folder / "out" / "run.json").write_text("[]"),
     "is not the record of an audit"),
])
def test_unusable_input_is_one_sentence(tmp_path, spoil, message):
    table, vectors = lines(100)
    table, vectors = table[:40], vectors[:40]
    table.to_csv(tmp_path / "t.csv", index=False)
    np.save(tmp_path / "all.npy", vectors)
    spoil(tmp_path, table, vectors)
    result = run("--csv", tmp_path / "t.csv", "--embeddings", tmp_path / "all.npy", "--out", tmp_path / "out", *OPTIONS)
    assert result.exit_code == 2
    said = result.output.strip().splitlines()[-1]
    assert said.startswith("bias-tutorial cxr: ") and message in said and "Traceback" not in result.output
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(("options", "message"), [
    ((), "give --csv with a table, or --demo without"),
    (("--demo", "--csv", "t.csv"), "give --csv with a table, or --demo without"),
    (("--demo", "--resample", "smote"), "there is no procedure 'smote', expected some of plain, counts"),
    (("--demo", "--epochs", "0"), "epochs is 0, expected at least 1"),
    (("--demo", "--draws", "5"), "draws is 5, expected at least 100"),
    (("--demo", "--by", "sex", "--by", "sex"), "by must name at least one attribute, each once"),
    (("--csv", "t.csv", "--policy", "maybe"), "there is no such table|policy must be one of missing"),
])
def test_wrong_options_are_one_sentence(tmp_path, options, message):
    result = run("--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and re.search(message, result.output), result.output


def test_attribute_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no attribute 'height' to balance by, expected some of sex, race"):
        audit.demo(tmp_path / "out", audit.Settings(by=("height",)), 300, WIDTH, progress=False)


def test_what_is_not_installed_is_named_first(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "tensorboard" else 1)
    result = run("--demo", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "needs tensorboard: pip install 'bias-tutorial[report]'" in result.output


# ---------------------------------------------------------------------- the demonstration
def test_demonstration_is_stamped_everywhere(tmp_path):
    page = audit.demo(tmp_path / "out", audit.Settings(("by-finding",), ("sex",), 5, 3, 100), STUDIES, WIDTH, False)
    source = page.read_text(encoding="utf-8")
    parsed = Page(source)
    assert "SIMULATED: no patient is in these data" in parsed.text
    assert "four causes of a gap act together" in parsed.text and "(simulated)" in source[:600]
    figures = [attrs for tag, attrs in parsed.tags if tag == "svg"]
    assert figures and all("simulated" in attrs["aria-label"] for attrs in figures)
    assert all((table["data"] == "simulated").all() for table in tables(page.parent).values())
    logs = {path.name for path in (page.parent / "tensorboard").iterdir()}
    assert logs == {"simulated-plain", "simulated-by-finding"}
    assert json.loads((page.parent / "run.json").read_text())["inputs"]["simulated"] is True
