"""The capstone: an honest audit finds the sealed truth, a guess does not, and a bad form says which field is bad."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import yaml

from bias_tutorial import storage
from bias_tutorial.classroom import capstone
from bias_tutorial.classroom.score import FULL, POINTS, read_form, score
from bias_tutorial.evaluation import group_metrics
from bias_tutorial.simulate import counterfactual

SEEDS = (901, 902, 903, 904)
N = 2000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capstones")
    return {seed: capstone.make(seed, folder / str(seed), N) for seed in SEEDS}


def where_it_shows(cohort, name):
    """Share of the brain's pixels in which carriers and others of the same class differ."""
    pixels = cohort.images.reshape(len(cohort), -1)
    brain = pixels.mean(0) > 0.2
    t = []
    for y in (0, 1):
        on, off = (pixels[(cohort.table["disease"] == y) & (cohort.table[name] == value)] for value in (1, 0))
        t.append((on.mean(0) - off.mean(0)) / np.sqrt(on.var(0) / len(on) + off.var(0) / len(off)))
    both = np.abs(t[0] + t[1]) / np.sqrt(2)  # the same change in both classes adds up
    return (both[brain] > 5).mean()


def audit(folder):
    """What an honest student does, with nothing but the student's folder."""
    cohort = storage.load(folder / "cohort.npz")
    train = cohort.table[cohort.table["split"] == "train"]
    share = {name: train.groupby("disease")[name].mean() for name in capstone.ATTRIBUTES}
    goes = {name: round(float(found[1] - found[0]), 3) for name, found in share.items()}
    shows = {name: where_it_shows(cohort, name) for name in capstone.ATTRIBUTES}
    roles = {(True, True): "shortcut", (False, True): "visible", (True, False): "related", (False, False): "neither"}
    role = {name: roles[abs(goes[name]) > 0.12, shows[name] > 0.002] for name in capstone.ATTRIBUTES}
    shortcut = next((name for name, what in role.items() if what == "shortcut"), None)
    form = {"attribute": shortcut, "others": {name: what for name, what in role.items() if what != "shortcut"}}
    if shortcut:
        said = pd.read_csv(folder / "reader.csv", dtype={"image_id": str})
        test = cohort.table.merge(said, on="image_id")
        rates = group_metrics(test["disease"], test["score"], test[[shortcut]], draws=2)
        on, off = (rates.loc[f"{shortcut} = {value}"] for value in (1, 0))
        gap = float(on["tpr"] - off["tpr"])
        sick = test[test["disease"] == 1].groupby(shortcut).size()
        half = 1.96 * sum(r["tpr"] * (1 - r["tpr"]) / sick[v] for v, r in ((1, on), (0, off))) ** 0.5
        form |= {"kind": "grey" if shows[shortcut] > 0.3 else "shape",
                 "direction": "sick" if goes[shortcut] > 0 else "healthy",
                 "harmed": "others" if gap > 0 else "carriers", "association": goes[shortcut], "gap": gap,
                 "gap_interval": [max(-1.0, float(gap - half)), min(1.0, float(gap + half))]}
    return form


def fill(made, answers, path):
    form = yaml.safe_load(made["answers"].read_text())
    path.write_text(yaml.safe_dump({**form, **answers}))
    return path


def test_an_honest_audit_reaches_a_high_score_over_the_seeds(made, tmp_path):
    points = {}
    for seed in SEEDS:
        form = fill(made[seed], audit(made[seed]["student"]), tmp_path / f"{seed}.yml")
        points[seed] = score(form, made[seed]["truth"])
    print(*(f"{seed}\n{found}" for seed, found in points.items()), sep="\n")
    assert min(found.points for found in points.values()) >= 0.8 * FULL
    assert np.mean([found.points for found in points.values()]) >= 0.9 * FULL


def test_a_guesser_and_an_empty_form_stay_low(made, tmp_path):
    rng, points = np.random.default_rng(0), []
    for k in range(200):
        one = made[SEEDS[k % len(SEEDS)]]
        low, high = sorted(rng.uniform(-1, 1, 2).tolist())
        guess = {"attribute": str(rng.choice(capstone.ATTRIBUTES)), "kind": str(rng.choice(["shape", "grey"])),
                 "direction": str(rng.choice(["sick", "healthy"])), "harmed": str(rng.choice(["carriers", "others"])),
                 "association": float(rng.uniform(-1, 1)), "gap": float(rng.uniform(-1, 1)),
                 "gap_interval": [low, high],
                 "others": {a: str(rng.choice(["visible", "related", "neither"])) for a in capstone.ATTRIBUTES}}
        points.append(score(fill(one, guess, tmp_path / "guess.yml"), one["truth"]).points)
    assert np.mean(points) < 0.25 * FULL and max(points) < 0.8 * FULL
    for one in made.values():
        empty = score(one["answers"], one["truth"])
        assert empty.points == 0 and all("left empty" in line.says for line in empty.lines)


def test_the_truth_is_what_the_cohort_has(made):
    seed = SEEDS[0]
    truth = json.loads(made[seed]["truth"].read_text())
    assert sorted(truth["roles"].values()) == sorted(capstone.ROLES)
    assert truth["harmed"] == ("others" if truth["gap"] > 0 else "carriers") and abs(truth["gap"]) > 0.1
    again, design = capstone.draw(seed)
    assert truth | again == truth
    for attribute in design.attributes:
        healthy, sick = attribute.prevalence
        role = truth["roles"][attribute.name]
        assert (abs(sick - healthy) > 0.1) == (role in ("shortcut", "related"))
        assert (attribute.effect.mean == 0) == (role in ("related", "neither"))
    assert {capstone.draw(seed)[0]["attribute"] for seed in range(40)} == set(capstone.ATTRIBUTES)
    assert {capstone.draw(seed)[0]["direction"] for seed in range(40)} == {"sick", "healthy"}


def test_the_students_folder_tells_nothing_of_the_truth(made):
    folder = made[SEEDS[0]]["student"]
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "answers.yml", "cohort.npz", "reader.csv",
                                                        "table.csv"]
    cohort = storage.load(folder / "cohort.npz")
    assert set(cohort.table) == {"image_id", "patient_id", "split", "disease", *capstone.ATTRIBUTES}
    assert set(cohort.meta) == {"simulated", "licence"} and cohort.table.attrs == {}
    with pytest.raises(ValueError, match="simulated"):
        counterfactual(cohort, scanner=1)
    truth = json.loads(made[SEEDS[0]]["truth"].read_text())
    for text in (path.read_text() for path in folder.iterdir() if path.suffix != ".npz"):
        assert not any(str(truth[part]) in text for part in ("salt", "how", "region", "gap"))
    seal = yaml.safe_load((folder / "answers.yml").read_text())["cohort"]
    assert seal == hashlib.sha256(made[SEEDS[0]]["truth"].read_bytes()).hexdigest()


def test_a_changed_truth_and_a_form_of_another_cohort_are_noticed(made, tmp_path):
    one, other = made[SEEDS[0]], made[SEEDS[1]]
    changed = tmp_path / "truth.json"
    changed.write_text(one["truth"].read_text().replace('"gap": ', '"gap":  '))
    for truth in (changed, other["truth"]):
        with pytest.raises(ValueError, match="'cohort' is .* belongs to another cohort, or one of the two was changed"):
            score(one["answers"], truth)


@pytest.mark.parametrize(("change", "message"), [
    ({"attribute": "weather"}, "'attribute' is 'weather', expected one of scanner"),
    ({"attribute": ["ward"]}, "'attribute' is"), ({"kind": "both"}, "'kind' is 'both'"),
    ({"direction": 1}, "'direction' is 1"), ({"harmed": "women"}, "'harmed' is 'women'"),
    ({"gap": "large"}, "'gap' must be a number"), ({"gap": 20}, "'gap' must be a number from -1 to 1"),
    ({"gap": True}, "'gap' must be"), ({"gap": float("nan")}, "'gap' must be"),
    ({"association": "0,3"}, "'association' must be a number"), ({"gap_interval": 0.1}, "'gap_interval' must be two"),
    ({"gap_interval": [0.2, 0.1]}, "'gap_interval' must be .low, high."), ({"gap_interval": [0, "x"]}, "gap_interval"),
    ({"others": "none"}, "'others' must have a line"), ({"others": {"weather": "related"}}, "'others' names 'weather'"),
    ({"others": {"ward": "harmless"}}, "'others: ward' is 'harmless'"), ({"cohort": None}, "'cohort' must be"),
    ({"note": "hello"}, "unknown field 'note'"),
])
def test_a_bad_form_says_which_field(made, tmp_path, change, message):
    with pytest.raises(ValueError, match=f"form.yml: .*{message}"):
        read_form(fill(made[SEEDS[0]], change, tmp_path / "form.yml"))


@pytest.mark.parametrize(("text", "message"), [("", "holds no fields"), ("- a", "holds no fields"),
                                               ("a: [", "is not YAML"), ("\x00", "is not YAML")])
def test_a_form_that_is_none_says_so(tmp_path, text, message):
    (tmp_path / "form.yml").write_text(text)
    with pytest.raises(ValueError, match=f"form.yml {message}"):
        read_form(tmp_path / "form.yml")


def rules(truth_changes, answers, tmp_path):
    truth = {"attribute": "ward", "kind": "grey", "direction": "sick", "harmed": "others", "association": 0.4,
             "gap": 0.3, "roles": dict(zip(("ward", "scanner", "season", "referral"), capstone.ROLES, strict=True)),
             **truth_changes}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    seal = hashlib.sha256((tmp_path / "truth.json").read_bytes()).hexdigest()
    (tmp_path / "form.yml").write_text(yaml.safe_dump({"cohort": seal, **answers}))
    found = score(tmp_path / "form.yml", tmp_path / "truth.json")
    return {line.field: line.points for line in found.lines}, found


def test_the_rules_give_the_stated_points(tmp_path):
    right = {"attribute": "ward", "kind": "grey", "direction": "sick", "harmed": "others", "association": 0.45,
             "gap": 0.22, "gap_interval": [0.2, 0.4], "others": {"scanner": "visible", "season": "related",
                                                                "referral": "neither"}}
    assert rules({}, right, tmp_path)[0] == POINTS
    for change, field, points in (
            ({"association": 0.47}, "association", 0), ({"gap": 0.41}, "gap", 0),
            ({"gap_interval": [0.31, 0.4]}, "gap_interval", 0), ({"gap_interval": [0.1, 0.5]}, "gap_interval", 1),
            ({"gap_interval": [-0.9, 0.9]}, "gap_interval", 0), ({"kind": "shape"}, "kind", 0),
            ({"others": {"scanner": "related", "season": "related"}}, "others", 1)):
        found = rules({}, {**right, **change}, tmp_path)[0]
        assert found == {**POINTS, field: points}, change
    points, found = rules({}, {**right, "attribute": "season"}, tmp_path)
    assert points == {**dict.fromkeys(POINTS, 0), "others": 3}
    assert "nothing of it shows in the images" in str(found) and str(found).endswith("3 of 20")


def test_making_refuses_what_it_should(made, tmp_path):
    with pytest.raises(ValueError, match="holds something already"):
        capstone.make(1, made[SEEDS[0]]["student"], N)
    with pytest.raises(ValueError, match="n must"):
        capstone.make(1, tmp_path / "new", 100)
    with pytest.raises(ValueError, match="seed"):
        capstone.make(-1, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
