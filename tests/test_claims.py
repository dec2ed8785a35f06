"""Claims and their verdicts: the schema, the statistics, what a chapter records, and the runs that are stored."""

import json
import math
import os

import nbformat
import numpy as np
import pytest
import yaml
from scipy import stats

from bias_tutorial import claims, claims_checks
from bias_tutorial.claims import Claim, parse_claims, record, recorded, verdict
from bias_tutorial.experiments import Store, run_key, run_once, seed_range

BASE = {"id": "gap", "statement": "The gap is above zero", "measure": "test_claims:measured", "settings": {"mean": 0.2},
        "seeds": "0:10", "quantity": "gap", "comparison": "greater", "null": 0.0, "interval": "patients",
        "short": {"settings": {"mean": 0.1}, "seed": 0, "tolerance": 1e-9}}


def measured(settings, seed):
    """A measure: a noisy gap with the interval of one seed."""
    gap = settings["mean"] + 0.01 * np.random.default_rng(seed).standard_normal()
    return {"gap": gap, "gap_interval": [gap - 0.02, gap + 0.02]}


def claim_of(**changes) -> Claim:
    """The claim of ``BASE`` with some fields changed; a field set to None is left out."""
    entry = {k: v for k, v in {**BASE, **changes}.items() if v is not None}
    return parse_claims(yaml.safe_dump({"claims": [entry]}), "01")[0]


def rows_of(claim, values, half=0.02):
    """Runs of a claim with the given values, one a seed."""
    return [{"key": run_key(claim.measure, claim.settings, seed), "seed": seed, "settings": dict(claim.settings),
             "results": {"gap": value, "gap_interval": [value - half, value + half]}}
            for seed, value in zip(claim.seeds, values, strict=True)]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """An empty folder in the place of ``stored/``, with the measures of this file importable."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    monkeypatch.setattr(claims, "STORED", tmp_path / "stored")
    (tmp_path / "stored" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "stored"


# ---------------------------------------------------------------------- schema
@pytest.mark.parametrize(("changes", "message"), [
    ({"null": None}, "needs 'null'"),
    ({"null": float("inf")}, "needs 'null'"),
    ({"comparison": "bigger"}, "not one of less, greater, within"),
    ({"comparison": "within", "margin": 0}, "'margin' must be a number above 0"),
    ({"seeds": "0:901"}, "pilot"),
    ({"seeds": "900:910"}, "pilot"),
    ({"seeds": "3:4"}, "at least two seeds"),
    ({"seeds": "9:3"}, 'must be written "a:b"'),
    ({"seeds": 10}, 'must be written "a:b"'),
    ({"quantity": None}, "'quantity' is missing"),
    ({"statement": " "}, "'statement' must be a text"),
    ({"measure": "no colon"}, "not 'module:function'"),
    ({"surprise": 1}, "unknown field 'surprise'"),
    ({"kind": "guess"}, "kind 'guess'"),
    ({"kind": "estimate"}, "reported, not judged"),
    ({"interval": "none"}, "'why' must say why"),
    ({"short": {"seed": 0}}, "'short' must give exactly"),
    ({"short": {**BASE["short"], "tolerance": 0}}, "'tolerance' above 0"),
    ({"live": {"recorded": "gap"}}, "'live' needs 'recorded'"),
    ({"live": {"recorded": "gap", "parameters": {"N": "n"}}}, "names the setting 'n'"),
])
def test_a_claim_that_breaks_the_schema_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        claim_of(**changes)
    assert "01_claims.yml, claim 'gap'" in str(caught.value) or "'gap'" in str(caught.value)


def test_a_file_that_breaks_the_schema_is_refused():
    for text, message in (("claims: 3", "one list"), ("other: []", "one list"), ("claims: [3]", "must be a mapping"),
                          ("claims: []", "holds no claim")):
        with pytest.raises(ValueError, match=message):
            parse_claims(text, "01")
    with pytest.raises(ValueError, match="'gap' stands twice"):
        parse_claims(yaml.safe_dump({"claims": [BASE, BASE]}), "01")
    written = "claims:\n  - " + yaml.safe_dump(BASE).replace("'null':", "null:").replace("\n", "\n    ")
    assert "\n    null: 0.0" in written and parse_claims(written, "01")[0].null == 0.0
    assert seed_range("2:5") == (2, 3, 4)


# ---------------------------------------------------------------------- verdicts
def test_interval_over_seeds_is_students_t_and_k_counts_each_seeds_own_interval():
    values = [0.03, 0.05, 0.01, 0.04, 0.06, 0.05, 0.03, 0.07, 0.04, 0.05]
    found = verdict(claim_of(), rows_of(claim_of(), values))
    low, high = stats.t.interval(0.95, 9, loc=np.mean(values), scale=stats.sem(values))
    assert found.low == pytest.approx(low) and found.high == pytest.approx(high)
    assert found.k == 9 and found.n == 10 and found.holds  # .01 - .02 is below 0
    assert found.sentence() == f"holds in 9 of 10 seeds; mean 0.043, 95% interval {low:.3f} to {high:.3f}"


def test_no_effect_needs_the_interval_inside_the_margin():
    claim = claim_of(comparison="within", null=0.0)
    tight = verdict(claim, rows_of(claim, np.linspace(-0.004, 0.004, 10), half=0.01))
    assert tight.holds and tight.k == 10
    spread = verdict(claim, rows_of(claim, np.linspace(-0.06, 0.06, 10), half=0.01))  # includes 0: that is not evidence
    assert spread.low < 0 < spread.high and not spread.holds and spread.k < 10
    assert spread.sentence().startswith("does not hold; met in")


def test_every_seed_share_and_estimate():
    values = [0.03] * 9 + [0.01]
    assert verdict(claim_of(), rows_of(claim_of(), values)).holds
    assert not verdict(claim_of(every_seed=True), rows_of(claim_of(), values)).holds
    share = verdict(claim_of(kind="share"), rows_of(claim_of(), values))
    assert share.holds is None and share.mean == 0.9 and 0.55 < share.low < 0.6 and 0.97 < share.high < 0.99
    estimate = claim_of(kind="estimate", comparison=None, null=None)
    shown = verdict(estimate, rows_of(estimate, values))
    assert shown.k is None and shown.holds is None and "holds" not in shown.sentence()
    two = claim_of(kind="estimate", comparison=None, null=None, seeds="0:2")
    said = verdict(two, rows_of(two, [0.05, 0.01])).sentence()
    assert said == "mean 0.030 over 2 seeds, 0.010 and 0.050: too few for an interval"


def test_a_less_claim_and_a_value_without_interval():
    claim = claim_of(comparison="less", null=0.05, interval="none", why="exact, nobody is sampled")
    found = verdict(claim, rows_of(claim, [0.03] * 9 + [0.06]))
    assert found.k == 9 and found.holds


def test_missing_runs_and_quantities_are_errors(stored):
    with pytest.raises(ValueError, match="10 of 10 runs are not stored; run: python -m bias_tutorial.claims run 01"):
        verdict(claim_of())
    claim = claim_of(quantity="other")
    with pytest.raises(ValueError, match="no number 'other'; it returned gap"):
        verdict(claim, rows_of(claim, [0.1] * 10))
    rows = rows_of(claim_of(), [0.1] * 10)
    del rows[3]["results"]["gap_interval"]
    with pytest.raises(ValueError, match="no interval 'gap_interval'"):
        verdict(claim_of(), rows)


# ---------------------------------------------------------------------- repeat
def test_runs_are_stored_shown_repeated_and_compared(stored, capsys):
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": [{**BASE, "statement": "A <gap>"}]}))
    assert claims_checks.main(["run", "01", "--workers", "1", "--update"]) == 0
    rows = Store(stored / "runs" / "01_measured.jsonl").rows()
    assert [(row["seed"], row["settings"]["mean"]) for row in rows] == [*((s, 0.2) for s in range(10)), (0, 0.1)]
    page = claims.does_it_hold("01")
    assert "A &lt;gap&gt;" in page._repr_html_() and "holds in 10 of 10 seeds" in page._repr_html_()
    assert "<details>" not in page._repr_html_()  # nothing but a claim
    assert "holds in 10 of 10" in repr(page) and len(claims.stored_runs("01", "gap")) == 10
    assert claims_checks.main(["run", "01", "--workers", "1"]) == 0
    assert claims_checks.main(["run", "01", "--workers", "1", "--seeds", "900:902"]) == 0
    assert Store(stored / "runs" / "01_measured.jsonl").rows() == rows
    assert claims_checks.main(["run", "all", "--workers", "1", "--seeds", "2:4"]) == 0
    assert "of 2 seeds" in capsys.readouterr().out.split("stored:")[1]  # the same two seeds, as they are stored
    assert claims_checks.main(["run", "01", "--workers", "1", "--seeds", "20:25"]) == 0
    shown = capsys.readouterr().out
    assert "of 5 seeds" in shown and "of 10 seeds" in shown.split("stored:")[1]
    with pytest.raises(SystemExit):
        claims_checks.main(["run"])
    assert claims_checks.main(["run", "01", "--seeds", "5:6"]) == 1
    assert claims_checks.main(["run", "01", "--seeds", "0:10", "--update"]) == 1
    capsys.readouterr()
    assert claims_checks.main(["run", "01", "--seeds", "5:905"]) == 1
    assert "pilot" in capsys.readouterr().err
    assert claims_checks.main(["run", "07"]) == 1
    assert "chapter '07' has no claims file; there are: 01" in capsys.readouterr().err


def test_estimates_are_folded_below_the_claims(stored):
    estimate = {k: v for k, v in BASE.items() if k not in ("comparison", "null", "margin")}
    entries = [BASE, {**estimate, "id": "size", "kind": "estimate", "statement": "How large"}]
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": entries}))
    assert claims_checks.main(["run", "01", "--workers", "1", "--update"]) == 0
    shown, folded = claims.does_it_hold("01")._repr_html_().split("<details>")
    assert BASE["statement"] in shown and "How large" not in shown
    assert "judged: 1</summary>" in folded and "How large" in folded and "How large" in repr(claims.does_it_hold("01"))


def test_claims_of_a_part_are_folded_under_its_heading(stored):
    low = {**BASE, "id": "low", "comparison": "less", "null": -5, "statement": "Below", "part": "Not <so>"}
    entries = [{**BASE, "part": "Gaps"}, {**BASE, "id": "again"}, low]
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": entries}))
    assert claims_checks.main(["run", "01", "--workers", "1", "--update"]) == 0
    page = claims.does_it_hold("01")._repr_html_()
    start, first, second = page.split("<details>")
    assert "make claims CHAPTER=01" in start and "2 of 3 claims hold" in start
    assert "<summary>Gaps: 2 of 2 claims hold</summary>" in first and first.count('<th scope="row"') == 2
    assert "<summary>Not &lt;so&gt;: 0 of 1 claims hold</summary>" in second and "Below" in second
    with pytest.raises(ValueError, match="'part' must be a text, not 3"):
        claims.parse_claims(yaml.safe_dump({"claims": [{**BASE, "part": 3}]}), "01")


def test_a_verdict_that_changes_is_red(stored, capsys):
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": [BASE]}))
    store = Store(stored / "runs" / "01_measured.jsonl")
    for seed in range(10):  # what another version of the code measured
        row = run_once(BASE["measure"], BASE["settings"], seed)
        store.append({**row, "results": {"gap": 0.0, "gap_interval": [-0.01, 0.01]}})
    assert claims_checks.main(["run", "01", "--workers", "1"]) == 1
    assert "A verdict differs" in capsys.readouterr().out


def test_update_keeps_the_runs_of_claims_that_take_too_long(stored):
    both = [BASE, {**BASE, "id": "large", "settings": {"mean": 0.4}, "seeds": "0:2", "full": True}]
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": both}))
    assert claims_checks.main(["run", "01", "--workers", "1", "--full", "--update"]) == 0
    assert claims_checks.main(["run", "01", "--workers", "1", "--update"]) == 0
    assert len(Store(stored / "runs" / "01_measured.jsonl").rows()) == 13


def test_the_short_row_must_agree(stored, capsys):
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": [BASE]}))
    assert claims_checks.main(["short"]) == 1
    assert "its short run is not stored" in capsys.readouterr().err
    assert claims_checks.main(["run", "01", "--workers", "1", "--update"]) == 0
    assert claims_checks.main(["short"]) == 0
    path = stored / "runs" / "01_measured.jsonl"
    short = next(row for row in Store(path).rows() if row["settings"] == {"mean": 0.1})
    path.unlink()
    Store(path).append({**short, "results": {**short["results"], "gap": short["results"]["gap"] + 1e-6}})
    assert claims_checks.main(["short", "01"]) == 1
    assert "the short run gives gap = 0.1" in capsys.readouterr().err
    assert claims_checks.main(["short", "01", "--update"]) == 0  # stores what comes out now, and the kept runs with it
    assert len(Store(path).rows()) == 11


# ---------------------------------------------------------------------- recorded and live
def test_recorded_results_come_back_from_an_executed_notebook(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    code = "from bias_tutorial import claims\nimport numpy as np\nclaims.record('auc', np.float64(.5))\n" \
           "claims.record('by_group', {'a': np.arange(2)})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    environment = {**os.environ, "BIAS_TUTORIAL_BOOK": "1"}
    NotebookClient(notebook, kernel_name="python3").execute(env=environment)
    path = tmp_path / "executed.ipynb"
    nbformat.write(notebook, path)
    assert recorded(path) == {"auc": 0.5, "by_group": {"a": [0, 1]}}
    outputs = notebook.cells[0].outputs
    assert [set(out.data) for out in outputs] == [{claims.MIME}] * 2  # nothing that a page would show
    notebook.cells[0].outputs = [*outputs, outputs[0]]
    with pytest.raises(ValueError, match="'auc' is recorded twice"):
        recorded(notebook)


def test_record_shows_nothing_to_a_reader_and_refuses_what_is_not_finite(monkeypatch, capsys):
    monkeypatch.delenv("BIAS_TUTORIAL_BOOK", raising=False)
    record("x", 1.0)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="recorded 'x' is nan"):
        record("x", float("nan"))


def test_prediction_interval_covers_a_new_seed_as_often_as_it_says():
    rng, m = np.random.default_rng(3), 1
    inside = 0
    for _ in range(4000):
        values = rng.standard_normal(11)
        low, high = claims_checks.prediction_interval(values[:10], m)
        inside += low <= values[10] <= high
    assert abs(inside / 4000 - 0.99) < 4 * math.sqrt(0.99 * 0.01 / 4000)
    one, ten = (claims_checks.prediction_interval([0.0, 1.0, 2.0], m) for m in (1, 10))
    assert ten[0] < one[0] < one[1] < ten[1]
    expected = 1 + stats.t.ppf(0.995, 2) * math.sqrt(1 + 1 / 3)
    assert one[1] == pytest.approx(expected, rel=1e-6)


def test_live_numbers_are_compared_at_the_same_settings_only(stored):
    entry = {**BASE, "live": {"recorded": "gap_now", "parameters": {"MEAN": "mean"}}}
    (stored / "01_claims.yml").write_text(yaml.safe_dump({"claims": [entry]}))
    claims_checks.main(["run", "01", "--workers", "1", "--update"])
    good, same = {"gap_now": 0.2}, {"MEAN": 0.2}
    assert claims_checks.live_problems("01", good, same) == []
    assert "stored runs predict" in claims_checks.live_problems("01", {"gap_now": 0.4}, same)[0]
    assert "recorded no 'gap_now'" in claims_checks.live_problems("01", {}, same)[0]
    assert "other settings (MEAN is 0.5" in claims_checks.live_problems("01", good, {"MEAN": 0.5})[0]
    assert "expected a number" in claims_checks.live_problems("01", {"gap_now": "x"}, same)[0]


# ---------------------------------------------------------------------- what the book really stores
@pytest.mark.parametrize("chapter", claims.chapters())
def test_the_stored_runs_are_whole_and_belong_to_a_claim(chapter):
    known = claims.load_claims(chapter)
    for path in sorted((claims.STORED / "runs").glob(f"{chapter}_*.jsonl")):
        wanted = {key for claim in known if claim.store == path for key in (*claim.keys, claim.short_key)}
        rows = Store(path).rows()
        assert {row["key"] for row in rows} == wanted, f"{path.name}: runs without a claim, or a claim without runs"
        assert path.read_bytes().endswith(b"\n")
    for claim in known:
        found = verdict(claim)
        assert found.n == len(claim.seeds) and json.dumps(found.values)


@pytest.mark.parametrize("chapter", claims.chapters())
def test_a_short_run_of_every_claim_agrees_with_the_stored_row(chapter):
    assert claims_checks.repeat_short(chapter) == []
