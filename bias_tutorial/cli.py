"""The command ``bias-tutorial``: look at this machine, write simulated studies to disk, run many experiments, audit.

Each command is one call of a function that works as well from Python; it is imported only when the command runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Where Bias Hides: simulated medical images with known bias.")

classroom = typer.Typer(no_args_is_help=True, help="Make exercise sheets for a class, and grade what it hands in.")
app.add_typer(classroom, name="classroom")


class Layout(StrEnum):
    """How the files of a study are arranged."""

    bids = "bids"
    simba = "simba"


@app.command()
def doctor():
    """Show versions, device, precision and memory, and how to mend what is missing.

    The exit code is 0 when everything required is here, 1 when something is missing, too old or broken.
    """
    from .environment import check_env

    report = check_env()
    typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def simulate(
    scenario: Annotated[str, typer.Argument(help="A preset (no_bias, near, far, intensity, both), or a .json or .yaml "
                                                 "file that holds a scenario.")],
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or this very simulation, unfinished.")],
    p: Annotated[float | None, typer.Option(help="P(attribute | disease), and 1 - p without disease; as the scenario "
                                                 "says when not given.")] = None,
    n: Annotated[int, typer.Option(help="Number of subjects, one image each.")] = 2000,
    seed: Annotated[int, typer.Option(help="The one seed: same seed, same files.")] = 0,
    shape: Annotated[str, typer.Option(help="Voxels: two sides for slices, three for volumes, as 112x96 or "
                                            "173x211x155.")] = "112x96",
    layout: Annotated[Layout, typer.Option(help="Arrangement of the files.")] = Layout.bids,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core when not given.")] = None,
):
    """Write a simulated study to a folder; stopped at any moment, the same command continues it."""
    from . import storage

    with _said_plainly("simulate"):
        made = storage.write_simulation(scenario, n, seed, out, shape=_sides(shape), layout=layout.value,
                                        workers=workers, p=p)
    typer.secho(f"✓ {out}: {made['written']} images written, {made['kept']} kept from before", fg="green")


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A recipe (.yml) with measure, settings, seeds and store; or a chapter's "
                                              "claims, stored/NN_claims.yml of this package.")],
    workers: Annotated[int, typer.Option(help="Processes on this machine; they share its cores.")] = 2,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler whose workers do the runs, as "
                                                       "tcp://host:8786.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds in place of the recipe's, as 0:10.")] = None,
):
    """Do the runs of a recipe that are not stored yet; stopped at any moment, the same command continues.

    The exit code is 1 when repeated claims come to another verdict than the stored runs.
    """
    from . import claims, experiments
    from .claims_checks import repeat

    same = True
    with _said_plainly("sweep", RuntimeError, ModuleNotFoundError):
        chosen = {} if seeds is None else {"seeds": experiments.seed_range(seeds, "--seeds")}
        if file.resolve().parent == claims.STORED.resolve():
            same = repeat(file.name.partition("_")[0], **chosen, workers=workers, scheduler=scheduler)
        else:
            recipe = experiments.read_recipe(file) | chosen
            runs = experiments.sweep(**recipe, workers=workers, scheduler=scheduler)
            typer.secho(f"✓ {recipe['store']}: holds all {len(runs)} runs of '{recipe['measure']}'", fg="green")
    if not same:
        raise typer.Exit(1)


@app.command()
def cxr(
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or this very audit, unfinished.")],
    csv: Annotated[Path | None, typer.Option(help="Table of MIMIC-CXR's form: subject_id, study_id, dicom_id, gender, "
                                                  "race, anchor_age, insurance, 14 findings.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Folder of .npy or .tfrecord files, or one .npy of all rows; "
                                                         "the table's column path when not given.")] = None,
    resample: Annotated[list[str] | None, typer.Option(
        help="What to train on besides all studies: counts, by-finding, reweighing, as-released, as-described, subset "
             "(a control of equal size). Give it once for each; counts, by-finding, reweighing and subset when not "
             "given.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Attributes to balance by, and to cross; sex and race when not "
                                                      "given.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the draws and the training.")] = 0,
    epochs: Annotated[int, typer.Option(help="At most; training stops early.")] = 20,
    draws: Annotated[int, typer.Option(help="Of the bootstrap and of the permutations.")] = 500,
    policy: Annotated[str, typer.Option(help="What an uncertain label becomes: missing, negative or "
                                             "positive.")] = "missing",
    width: Annotated[int, typer.Option(help="Numbers in an embedding.")] = 1376,
    demo: Annotated[bool, typer.Option("--demo", help="Audit a simulated cohort: no table needed.")] = False,
):
    """Audit chest X-ray findings by group: who is in the data, what is missed in whom, what resampling changes.

    Writes report.html, tables, TensorBoard logs and run.json. Stopped at any moment, the same command continues.
    """
    from . import audit

    with _said_plainly("cxr", FloatingPointError, MemoryError, ModuleNotFoundError):
        asked = {"resample": resample, "by": by, "seed": seed, "epochs": epochs, "draws": draws}
        settings = audit.Settings(**{name: value for name, value in asked.items() if value is not None})
        if demo == (csv is not None) or demo and embeddings:
            raise ValueError("give --csv with a table, or --demo without table and embeddings")
        page = audit.demo(out, settings) if demo else audit.audit(csv, out, embeddings, settings, policy, width)
    typer.secho(f"✓ {page}: open it in a browser", fg="green")


@classroom.command()
def build(
    seed: Annotated[int | None, typer.Option(help="Of the numbers in the sheets; 0 when not given. Another seed for "
                                                  "each class: last year's answers do not pass.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the sheets, with their solutions.")] = Path("dist/classroom"),
    masters: Annotated[Path, typer.Option(help="Folder of the master notebooks.")] = Path("book/exercises"),
):
    """Make the student notebooks and solutions from the master notebooks, and the instructor's pack beside them."""
    from .classroom import pack, sheets

    with _said_plainly("classroom build", ModuleNotFoundError):
        written = sheets.build(masters, out, seed)
        has_texts = (masters.parent / "instructors").is_dir()
        pages = pack.write_pack(out, seed, masters.resolve().parents[1]) if has_texts else []
    typer.secho(f"✓ {out}: {len(written)} notebooks; hand out {out / sheets.STUDENT}", fg="green")
    if pages:
        typer.secho(f"✓ {out / 'pack'}: run sheets, notes, answers and slides, {len(pages)} files", fg="green")


@classroom.command()
def grade(
    submissions: Annotated[Path, typer.Argument(help="Folder with one folder for each student, or with files named "
                                                     "student_sheet.ipynb.")],
    out: Annotated[Path, typer.Option(help="Table to write (.csv); pages go beside it.")],
    seed: Annotated[int | None, typer.Option(help="With which the class's sheets were made.")] = None,
    masters: Annotated[Path, typer.Option(help="Folder of the master notebooks.")] = Path("book/exercises"),
    workers: Annotated[int, typer.Option(help="Submissions graded at a time.")] = 2,
    seconds: Annotated[float, typer.Option(help="For each cell, and for the tests of each question.")] = 30,
    memory: Annotated[int, typer.Option(help="MiB that a submission may use.")] = 2048,
):
    """Grade submissions, each by itself and without network; stopped at any moment, the same command continues.

    Files that could not be graded are listed in the table with the reason.
    """
    from .classroom import grade as grading
    from .classroom.host import Limits

    with _said_plainly("classroom grade", ModuleNotFoundError):
        done = grading.grade(submissions, out, masters, seed, workers, Limits(seconds, memory))
    for name, reason in done.excluded.items():
        typer.secho(f"not graded: {name} {reason}", fg="yellow", err=True)
    if done.weaker:
        typer.secho("This system does not keep submissions apart as Linux does: Python alone refuses network and "
                    "files. See the instructor's page on grading.", fg="yellow", err=True)
    typer.secho(f"✓ {out}: {done.graded} graded ({done.kept} from before), {len(done.excluded)} not; feedback pages in "
                f"{grading.beside(out, 'feedback')}", fg="green")
    typer.echo(f"Open answers for a person to grade: {done.open_answers}, all on one page, "
               f"{grading.beside(out, 'open_answers.html')}")
    if done.other_seed:
        typer.secho(f"Sheets drawn with another seed than {'the public one' if seed is None else seed}: "
                    f"{done.other_seed}. If that is your class's seed, grade again with it as --seed.", fg="yellow",
                    err=True)


@classroom.command()
def capstone(
    seed: Annotated[int, typer.Option(help="Who knows it knows the truth: take a long one.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty: student/ to hand out, instructor/ to "
                                                "keep.")],
    n: Annotated[int, typer.Option(help="Subjects.")] = 3000,
):
    """Make an unknown cohort for the capstone, with its truth sealed in a file for the instructor."""
    from .classroom import capstone as brief

    with _said_plainly("classroom capstone"):
        made = brief.make(seed, out, n)
    typer.secho(f"✓ hand out {made['student']}; keep {made['truth']}", fg="green")


@classroom.command()
def score(
    answers: Annotated[Path, typer.Argument(help="A filled form (.yml).")],
    truth: Annotated[Path, typer.Option(help="The sealed truth of that cohort, truth.json.")],
):
    """Score the form of a capstone against the sealed truth, line by line."""
    from .classroom import score as scoring

    with _said_plainly("classroom score"):
        typer.echo(str(scoring.score(answers, truth)))


@contextmanager
def _said_plainly(command: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what is not a fault of the program, such as a wrong value or a full disk, into one sentence."""
    try:
        yield
    except (ValueError, OSError, *errors) as error:
        typer.secho(f"bias-tutorial {command}: {' '.join(str(error).split())}", fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.secho(f"bias-tutorial {command}: stopped; the same command continues from here", fg="red", err=True)
        raise typer.Exit(130) from None


def _sides(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+([x,]\d+){1,2}", text.strip()):
        raise ValueError(f"--shape must be two or three whole numbers such as 112x96 or 173x211x155, got '{text}'")
    return tuple(int(side) for side in re.split("[x,]", text.strip()))
