"""Numbers in the prose: what passes, and everything that must not."""

import nbformat
import pytest
import yaml

from bias_tutorial import answer_key, claims, sources
from bias_tutorial.prose import Block, blocks, formula, numerals
from bias_tutorial.sources import (
    Sources,
    check_book,
    check_cards,
    check_notebook,
    check_text,
    parameters,
    structural_patterns,
)

HERE = Sources("01", {"N": 2000, "P": 0.7, "SEEDS": (11, 12), "SEED": 3, "NAME": "x"},
               {"01": {"auc": 0.8341, "by": {"a": [3, 41]}}})


def faults(markdown, where=HERE):
    return check_text(markdown, "page.md", where)


def found(markdown):
    return [(n.text, n.value) for block in blocks(markdown) for n in numerals(block)]


# ---------------------------------------------------------------------- what is a number
@pytest.mark.parametrize(("text", "value"), [
    ("it is .205 wide", 0.205), ("it is 0.205.", 0.205), ("a gap of -.249 here", -0.249),
    ("a gap of \u2212.249", -0.249), ("(-3)", -3), ("about 12,000 subjects", 12000),
    ("about 12\u202f000 subjects", 12000), ("1e-4 off", 1e-4), ("3 \u00d7 10\u207b\u2074", 3e-4), ("10^6 draws", 1e6),
    ("10\u2076 draws", 1e6), ("20.5% of them", 20.5), ("20.5 % of them", 20.5), ("20 per cent", 20),
    ("twenty percent", 20), ("five per cent", 5), ("eleven of them", 11), ("forty-two", 42), ("a thousand", 1000),
    ("**.205**", 0.205), ("_.205_", 0.205), ("`0.205`", 0.205), ("$.205$", 0.205), ("$p = 0.7$", 0.7), ("$n = 5$", 5),
    ("$x \\approx 3$", 3), ("$10^{6}$", 1e6), ("$3 \\times 10^{-4}$", 3e-4), ("$12{,}000$", 12000), ("$7$", 7),
    ("$x = \\frac{1}{5}$", 1), ("$x=-2$", -2), ("# Gap of .205", 0.205), ("- .205 it is", 0.205),
    ("> .205 it is", 0.205), ("| a |\n|---|\n| .205 |", 0.205), ("| n | a |\n|---|---|\n| 2 | x |", 2),
    ("<b>.205</b>", 0.205), ("<div>\n.205\n</div>", 0.205), ("![gap of .205](a.png)", 0.205),
    ('<img src="a.png" alt="gap of .205">', 0.205), (":::{note} Gap .205\nText\n:::", 0.205),
    (":::{note}\nGap .205\n:::", 0.205), ("::::{note}\n:::{tip}\nGap .205\n:::\n::::", 0.205),
    (":::{figure} a.png\n:alt: gap of .205\n\nText\n:::", 0.205), ("```{note}\nGap .205\n```", 0.205),
    ("{math}`p = .205`", 0.205), ("$$\np = .205\n$$", 0.205), ("{abbr}`.205`", 0.205), ("term\n: gap .205", 0.205),
    ("10<sup>6</sup>", 1e6), ("a 37mm slice", 37), ("ResNet-18", 18), ("AUC.921", 0.921), ("a gap (.205).", 0.205),
    ("p=.205", 0.205), ("\u0663 of them", 3), ("[.205](#here)", 0.205), ("&#46;205", 0.205), ("&percnt; 205", 205),
    ("one half, \u00bd", None), ("2\u00b2", 4), ("\\begin{align}\np = .205\n\\end{align}", 0.205),
])
def test_every_way_to_write_a_number_is_seen_and_is_red_without_a_source(text, value):
    assert any(v == value or v == pytest.approx(value) for _, v in found(text) if v is not None or value is None)
    assert faults(text, Sources()), text


@pytest.mark.parametrize("text", [
    "MNI152 and T1w", "`x = 3`", "```\nx = 3\n```", "```python\nx = 3\n```", "    x = 3", "[here](a3.md)",
    "![picture](fig3.png)", "<!-- an author's note: 3 -->", "<a href='page3.html'>here</a>", "1. first\n2. second",
    "# 3. Title", "## 1.2 Title", "(part-3)=\n# T", "% 3 notes", "{ref}`sec-3`", "$x_1 + x_{12} + x^2$",
    "$\\Phi(1 + \\tfrac{1}{2}x)$", "$N(+1, 1)$", "one of the two", "in one of them",
    "| n | a |\n|---|---|\n| 1 | x |\n| 2 | y |", ":::{figure} fig3.png\n:width: 80%\n:name: f-3\n\nText\n:::",
    "```{code-block} python\nx = 3\n```", "two or three", ":::{solution} ex-01-key\n:class: dropdown\nText\n:::",
])
def test_what_is_no_number_in_the_prose(text):
    assert found(text) == [] and faults(text) == []


def test_the_line_and_the_sentence_are_named():
    fault, = faults("First. And\nthis.\n\nBefore it. The gap was .205, e.g. on average. After it.")
    assert fault == "page.md, line 4: '.205' has no source: \"The gap was .205, e.g. on average.\""


# ---------------------------------------------------------------------- tags
@pytest.mark.parametrize("text", [
    "a gap of .205<!-- =key:curve(p=.7).tpr_gap --> here", "a gap of 0.2<!-- =key:curve(p=.7).tpr_gap --> here",
    "a gap of 20.5%<!-- =key:curve(p=.7).tpr_gap --> here", "a gap of **.205** <!-- =key:curve(p=.7).tpr_gap -->",
    "falls by .249<!-- =-key:independence(p_values=.7).tpr_gap -->", "$p = .205$<!-- =key:curve(p=.7).tpr_gap -->",
    "(.205)<!-- =key:curve(p=.7).tpr_gap -->", "AUC .834<!-- =run:auc -->", "AUC .834<!-- =run:01.auc -->",
    "41<!-- =run:by.a.1 -->", "seed 3<!-- =param:SEED -->", "1.39<!-- =key:logit(p=.8) -->",
    "900<!-- =code:experiments.PILOT_SEEDS -->", "$+1$<!-- =key:design().severity_means.1 -->",
    ".878<!-- =key:solve(preset=both, p=.7).rewarded.same.accuracy -->",
    "from .205<!-- =key:curve(p=.7).tpr_gap --> to .521<!-- =key:curve(p=.9).tpr_gap -->",
    "<b>.205<!-- =key:curve(p=.7).tpr_gap --></b>",
    "830<!-- =run:auc*1000~10 --> of a thousandth".replace("thousandth", "kind"),
    "-.205<!-- =-key:curve(p=.7).tpr_gap -->", "| a |\n|---|\n| .205<!-- =key:curve(p=.7).tpr_gap --> |",
    "<div>.205<!-- =key:curve(p=.7).tpr_gap --></div>",
])
def test_a_number_that_says_what_its_source_says_passes(text):
    assert faults(text) == []


@pytest.mark.parametrize(("text", "message"), [
    (".206<!-- =key:curve(p=.7).tpr_gap -->", "'.206' should be 0.205"),
    (".2051<!-- =key:curve(p=.7).tpr_gap -->", "should be 0.2049"),
    ("20.6%<!-- =key:curve(p=.7).tpr_gap -->", "should be 20.5%"),
    (".205%<!-- =key:curve(p=.7).tpr_gap -->", "should be 20.491%"),
    ("20.5<!-- =key:curve(p=.7).tpr_gap -->", "should be 0.2"),
    ("-.205<!-- =key:curve(p=.7).tpr_gap -->", "should be 0.205"),
    (".249<!-- =key:independence(p_values=.7).tpr_gap -->", "should be -0.249"),
    ("2.05e-2<!-- =key:curve(p=.7).tpr_gap -->", "should be"),
    (".205 to .521<!-- =key:curve(p=.9).tpr_gap -->", "'.205' has no source"),
    (".205 wide<!-- =key:curve(p=.7).tpr_gap -->", "stands behind no number"),
    (".205<!-- =key:curve(p=.7).gap -->", "names nothing that exists"),
    (".205<!-- =key:other(p=.7).gap -->", "names nothing that exists"),
    (".205<!-- =key:curve(p=.7).__class__ -->", "names nothing"),
    ("1<!-- =key:__import__(a=1).x -->", "names nothing"), (".205<!-- =eval:1 -->", "names no known source"),
    (".205<!-- = -->", "is not '=[-]SOURCE"), (".205<!-- =look_up:1 -->", "no known source"),
    (".5<!-- =key:curve(p=.7).tpr_gap*2.437 -->", "the factor 2.437"), ("3<!-- =run:auc~5 -->", "the step 5"),
    (".9<!-- =run:auc -->", "should be 0.8"), (".8<!-- =run:other -->", "names nothing"),
    ("4<!-- =param:SEED -->", "should be 3"), ("3<!-- =param:OTHER -->", "names nothing"),
    ("3<!-- =param:NAME -->", "not a number"), ("3<!-- =code:claims.STORED -->", "not a number"),
    ("3<!-- =code:prose._WORD -->", "names nothing"), ("3<!-- =code:os.NAME -->", "names nothing"),
    ("1<!-- =size:../.. -->", "names nothing"), ("1<!-- =count:../.. -->", "names nothing"),
    ("5 files<!-- =count:data/samples/bids .nii.gz -->", "stands behind no number"),
    ("7<!-- =count:data/samples/bids .nii.gz --> volumes", "should be 8"),
    ("in nine of ten seeds", "'nine' has no source"),
    ("<!-- =run:auc --> alone", "stands behind no number"), ("eleven<!-- =param:SEED -->", "should be 3"),
])
def test_a_wrong_number_or_a_wrong_tag_is_red(text, message):
    assert any(message in fault for fault in faults(text)), faults(text)


def test_each_digit_of_a_quoted_number_counts():
    value = float(answer_key.shortcut_curve(0.7)["tpr_gap"].iloc[0])
    right = f"{value:.3f}"
    assert faults(f"{right}<!-- =key:curve(p=.7).tpr_gap -->") == []
    for place in range(2, len(right)):
        for digit in set("0123456789") - {right[place]}:
            planted = right[:place] + digit + right[place + 1:]
            assert faults(f"{planted}<!-- =key:curve(p=.7).tpr_gap -->"), planted


def test_a_number_of_a_chapter_that_was_not_run_cannot_be_compared_yet():
    assert check_text("AUC .9<!-- =run:02.auc -->", "page.md", HERE) == []
    assert "names no chapter" in check_text("AUC .9<!-- =run:auc -->", "page.md")[0]


# ---------------------------------------------------------------------- parameters, citations, the reviewed list
def test_parameters_pass_by_value_but_single_digits_only_by_name():
    assert faults("2,000 images at p = .7 = 70%, with seeds 11 and 12") == []
    assert len(faults("2,001 images at p = .71, and seed 3, and seed 13, and 70")) == 5


def test_a_citation_covers_its_own_sentence_only():
    assert faults("They found 86.0% {cite:p}`stanley2025`. ") == []
    assert faults("They had 3,064 slices (doi 10.6084/m9.figshare.1512427).") == []
    assert faults("They had 3,064 slices, see [Cheng](https://figshare.com/x).") == []
    assert faults("See arXiv 1812.10352 for .8185.") == []
    assert len(faults("They found it {cite:p}`stanley2025`. We found 86.0%.")) == 1
    assert len(faults("We found .861 [in Colab](https://colab.research.google.com/github/a/b).")) == 1
    assert len(faults("We found .861, see [us](https://github.com/OWNER/where-bias-hides).")) == 1


def test_the_reviewed_list_needs_context_and_a_reason(tmp_path):
    assert faults("Chapter 2 shows a 2-D slice, classes 0 and 1, with 95% interval.") == []
    assert len(faults("Chapter two shows 2 slices, 95% of them.")) == 2
    path = tmp_path / "list.yml"
    for entry, message in (({"pattern": r"\d+", "why": "x"}, "too little context"),
                           ({"pattern": r"\.\d{3}\b", "why": "x"}, "too little context"),
                           ({"pattern": "page 3", "why": " "}, "'pattern' and 'why'"),
                           ({"pattern": "page 3"}, "'pattern' and 'why'")):
        path.write_text(yaml.safe_dump([entry]))
        structural_patterns.cache_clear()
        with pytest.raises(ValueError, match=message):
            structural_patterns(path)


def test_stored_verdicts_can_be_quoted(monkeypatch, tmp_path):
    from test_claims import BASE, claim_of, rows_of

    claim = claim_of()
    found = claims.verdict(claim, rows_of(claim, [0.03, 0.05, 0.01, 0.04, 0.06, 0.05, 0.03, 0.07, 0.04, 0.05]))
    monkeypatch.setattr(sources, "verdict", lambda wanted: found)
    monkeypatch.setattr(sources, "find_claim", lambda chapter, name: {("01", BASE["id"]): claim}[chapter, name])
    assert faults("in 9<!-- =stored:01.gap.k --> of 10<!-- =stored:01.gap.n -->, "
                  "mean .043<!-- =stored:01.gap.mean -->, "
                  "above 0<!-- =stored:01.gap.null -->, smallest .01<!-- =stored:01.gap.min -->") == []
    assert faults("with a mean of 0.2<!-- =stored:01.gap.settings.mean -->") == []
    assert "should be 9" in faults("in ten<!-- =stored:01.gap.k --> of 10<!-- =stored:01.gap.n -->")[0]
    assert "should be 0.043" in faults("mean .044<!-- =stored:01.gap.mean -->")[0]
    assert "names nothing" in faults("mean .044<!-- =stored:01.other.mean -->")[0]


# ---------------------------------------------------------------------- notebooks and the whole book
def chapter(*cells):
    tagged = nbformat.v4.new_code_cell("N = 2_000  # subjects\nP: float\nQ = N / 2", metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_markdown_cell, cells)])


def test_a_planted_number_in_a_notebook_is_found_by_cell():
    notebook = chapter("We draw 2,000 images.", "The gap was .2.")
    assert parameters(notebook) == {"N": 2000}
    fault, = check_notebook(notebook, "01.ipynb", Sources("01", parameters(notebook)))
    assert fault.startswith("01.ipynb, cell 2, line 1: '.2' has no source")


def test_the_whole_book_is_checked(tmp_path, capsys):
    folder = tmp_path / "book" / "chapters"
    folder.mkdir(parents=True)
    (tmp_path / "README.md").write_text("It takes 12 minutes.")
    (tmp_path / "book" / "intro.md").write_text("Chapter 1 has AUC .83<!-- =run:88.auc -->.")
    nbformat.write(chapter("AUC .83<!-- =run:auc -->, of 2,000"), folder / "88_test.ipynb")
    assert len(check_book(root=tmp_path)) == 1
    assert "88_test.ipynb was not run" in capsys.readouterr().out
    executed = chapter()
    executed.cells.append(nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output(
        "display_data", {claims.MIME: {"name": "auc", "value": 0.834}})]))
    (tmp_path / "executed").mkdir()
    nbformat.write(executed, tmp_path / "executed" / "88_test.ipynb")
    ran = [tmp_path / "executed" / "88_test.ipynb"]
    assert [f.partition(":")[0] for f in check_book(ran, tmp_path)] == ["README.md, line 1"]
    executed.cells[-1].outputs[0].data[claims.MIME]["value"] = 0.836
    nbformat.write(executed, ran[0])
    places = [fault.partition(",")[0] for fault in check_book(ran, tmp_path)]
    assert places == ["README.md", "book/intro.md", "book/chapters/88_test.ipynb"]


def test_every_other_page_is_checked_wherever_it_lies(tmp_path):
    (tmp_path / "README.md").write_text("Words.")
    for name in ("running.md", "teaching/plan.md", "_build/html/x.md", "exercises/student/notes.md"):
        (tmp_path / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "book" / name).write_text("It takes 12 minutes.")
    nbformat.write(chapter("It takes 12 minutes."), tmp_path / "book" / "own.ipynb")
    places = [fault.partition(",")[0] for fault in check_book(root=tmp_path)]
    assert sorted(places) == ["book/own.ipynb", "book/running.md", "book/teaching/plan.md"]


def test_a_data_card_is_covered_by_the_source_it_names(tmp_path):
    facts = "*What:* 3,064 slices\nof 233 patients.\n*Source:* Cheng et al., {}\n\n"
    cards = "# Cards\n\n## sets\n\n" + facts + "## more\n\n" + facts + "*Access:* in 2 parts.\n*What it takes:* 16 s.\n"
    places = [fault.partition(":")[0] for fault in check_cards(cards.format("in print", "doi:10.1/x"), "README.md")]
    assert places == ["README.md, line 5", "README.md, line 5", "README.md, line 16"]
    (tmp_path / "data").mkdir()
    for name in ("README.md", "data/README.md"):
        (tmp_path / name).write_text("## sets\n\n*What:* 3,064 slices.\n*Source:* doi:10.1000/x\n\nThey take 16 s.\n")
    faults = [fault.partition(":")[0] for fault in check_book(root=tmp_path)]
    assert faults == ["README.md, line 3", "README.md, line 6", "data/README.md, line 6"]


def test_formulas_keep_what_they_state():
    assert "0.7" in formula("p = 0.7") and "=5" in formula("n = 5") and "5" not in formula("n + 5")
    assert isinstance(next(blocks("text")), Block)


def test_the_pages_of_this_repository():
    """Numbers recorded by a run are compared by the book's build, which has the run."""
    assert check_book() == []
