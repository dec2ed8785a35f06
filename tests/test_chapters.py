"""Every chapter runs from start to end with small parameters, and what it records makes sense."""

import math
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from bias_tutorial import answer_key
from bias_tutorial.claims import recorded
from bias_tutorial.sizes import SMALL as SIZES

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book" / "chapters").glob("[0-9][0-9]_*.ipynb"))
HEADINGS = ("In this chapter", "Before you start", "## Against the answer key", "## Does it hold?", "## Audit",
            "## What this does not show", "## Check yourself", "## Take away", "## Go further", "## References")
SMALL = yaml.safe_load(SIZES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda path: path.stem)
def executed(request, tmp_path_factory):
    """A chapter run in its own kernel with the small parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIAS_TUTORIAL_BOOK", "1")
        patch.setenv("TQDM_DISABLE", "1")
        out = tmp_path_factory.mktemp("chapter") / request.param.name
        papermill.execute_notebook(request.param, out, SMALL[request.param.stem], progress_bar=False,
                                   kernel_name="python3", cwd=str(request.param.parent))
    return request.param.stem, nbformat.read(out, as_version=4)


def test_there_are_chapters_and_each_has_small_parameters():
    assert [path.stem for path in CHAPTERS] == sorted(SMALL)


def test_every_cell_ran_and_no_warning_shows(executed):
    _, notebook = executed
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count
            streams = [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
            assert not [o.text for o in streams if "Warning" in o.text]


def test_recorded_results_are_finite(executed):
    _, notebook = executed
    values = recorded(notebook)
    assert values and all(math.isfinite(v) for v in values.values() if isinstance(v, float | int))


def test_recorded_results_have_the_signs_the_key_fixes(executed):
    name, notebook = executed
    SIGNS[name](recorded(notebook))


def signs_of_chapter_1(values):
    assert values["worst_smd_stratified"] < values["worst_smd_unstratified"]
    key = answer_key.shortcut_curve(0.7)["tpr_gap"].iloc[0]
    assert values["coefficient_mark"] > 0 and values["conflicting"] < values["aligned"]
    assert abs(values["aligned"] - values["conflicting"] - key) < 0.04
    assert values["image_gap_intensity"] > 0


def signs_of_chapter_2(values):
    assert values["intensity_conflicting"] < values["intensity_aligned"]
    assert values["intensity_tpr_gap"] > 0.02
    p = SMALL["02_train_cnn"].get("agreement", 0.7)
    same = p * values["intensity_aligned"] + (1 - p) * values["intensity_conflicting"]
    assert abs(same - values["intensity_same"]) < 1e-9
    assert values["both_tpr_both"] > values["both_tpr_none"]
    groups = [value for name, value in values.items() if name.startswith("auc intensity")]
    assert len(groups) == 2 and min(groups) > 0.5


def signs_of_chapter_3(values):
    assert values["block1_random_in_sample"] > values["block1_random_held_out"] + 0.2
    assert values["block1_features"] == 8 * 42 * 36
    mark = [value for name, value in values.items() if name.endswith(" morphology")]
    assert len(mark) == 3 * 6 and all(0 <= value <= 1 for value in mark)
    moved = {name: value for name, value in values.items() if name.endswith((" total", " carried", " left"))}
    assert len(moved) == 3 * 2 * 3 and all(-1 <= value <= 1 for value in moved.values())
    for network in ("untrained", "no_bias", "far"):  # what the image does with a network does not depend on the block
        assert values[f"{network} block3 total"] == values[f"{network} pool total"]


def signs_of_chapter_4(values):
    for network in ("no lines", "plain", "LNL", "reversal", "told the class"):
        kinds = [values[f"{network} {kind}"] for kind in ("meningioma", "glioma", "pituitary")]
        assert values[f"{network} all"] == pytest.approx(sum(kinds) / 3) and -1 <= values[f"{network} drawn"] <= 1
    read = [values[f"{network} fresh probe"] for network in ("plain", "LNL", "reversal", "told the class")]
    assert sum(read) / len(read) > 0.6 and max(read) <= 1  # a line is seen in block 3, whatever was trained


def signs_of_chapter_5(values):
    assert values["decision"] in ("none", "explained", "unexplained") and 0.5 <= values["agreement of the sides"] <= 1
    assert all(values[f"{kind} sex"] > 0.7 for kind in ("variational", "diffusion", "pca"))
    assert 0.8 < values["as it is: sex, logistic"] > values["pooled: sex, logistic"]
    assert values["within class: sex, logistic"] < 0.75  # little is left for a linear probe


def signs_of_chapter_6(values):
    assert values["plain rate gap"] < -0.02 and values["counts rate gap"] < -0.02  # the few have fewer findings
    assert abs(values["by_finding rate gap"]) < 0.015 and abs(values["reweighing rate gap"]) < 0.015
    assert all(-1 < values[f"{arm} gap"] < 1 for arm in ("plain", "counts", "by_finding"))
    groups = [value for name, value in values.items() if name.startswith("underdiagnosis race")]
    assert len(groups) == 5 and all(0 <= value <= 1 for value in groups)
    assert values["stripped, by age"] < -0.02
    assert 0.2 < values["gap of 74 equal groups"] < 0.45 and 0.2 < values["floor of 74 equal groups"] < 0.4


SIGNS = {"01_simulate_bias": signs_of_chapter_1, "02_train_cnn": signs_of_chapter_2,
         "03_probe_layers": signs_of_chapter_3, "04_learning_not_to_learn": signs_of_chapter_4,
         "05_cluster_embeddings": signs_of_chapter_5, "06_resample_cxr": signs_of_chapter_6}


def test_frame_of_the_chapter():
    for path in CHAPTERS:
        notebook = nbformat.read(path, as_version=4)
        text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        for heading in HEADINGS:
            assert heading in text, f"{path.name} lacks '{heading}'"
        code = [c.source.splitlines() for c in notebook.cells if c.cell_type == "code"]
        lengths = sorted(len(lines) for lines in code)
        assert sum(lengths) <= 180 and lengths[-1] <= 25 and lengths[len(lengths) // 2] <= 6
        assert 1800 <= len(re.sub(r"<!--.*?-->", "", text, flags=re.S).split()) <= 3000  # tags are no words
        assert not any(c.get("outputs") for c in notebook.cells if c.cell_type == "code")
