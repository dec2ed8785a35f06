"""The whole of ``bias-tutorial cxr``: read or simulate, check, train, judge, write."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..cohort import Cohort
from ..datasets import mimic_cxr
from ..files import write_text
from ..simulate.cxr_embeddings import CAUSES, CxrDesign, cxr_embeddings
from . import report, study, tables

STUDIES, FEATURES = 16_000, 256
"""Of the demonstration: about a minute on two cores."""


def audit(csv: str | Path, out: str | Path, embeddings: str | Path | None = None,
          settings: study.Settings | None = None, policy: str = "missing", width: int = mimic_cxr.WIDTH,
          progress: bool = True) -> Path:
    """Audit a real cohort; stopped at any moment, the same call continues.

    Parameters
    ----------
    csv, embeddings, policy, width
        As for :func:`bias_tutorial.datasets.mimic_cxr.read`, which says what is left out.
    out : path
        Folder to write: new, empty, or this very run.
    settings : Settings, optional
        What is asked; the seed also divides the patients.
    progress : bool
        Show progress bars.

    Returns
    -------
    pathlib.Path
        The report; beside it ``tables/``, ``tensorboard/``, ``run.json`` and ``work/``.

    Raises
    ------
    ValueError, FileNotFoundError
        For input that cannot be used, and for a folder that holds another run.
    """
    settings, csv, out = settings or study.Settings(), Path(csv), Path(out)
    _check_extra()
    inputs = {"simulated": False, "table": csv.name, "policy": policy, "width": width}
    study.check_folder(out, settings, inputs)  # before the long reading
    cohort = mimic_cxr.read(csv, embeddings, policy, seed=settings.seed, width=width, progress=progress)
    inputs |= {"table_sha256": study.digest(csv), "embeddings_sha256": list(map(study.digest, cohort.images.parts))}
    return _audited(cohort, out, settings, inputs, progress)


def demo(out: str | Path, settings: study.Settings | None = None, studies: int = STUDIES, features: int = FEATURES,
         progress: bool = True) -> Path:
    """The same for a simulated cohort in which all four causes of a gap act.

    Parameters
    ----------
    studies, features : int
        Size of the cohort, see :func:`bias_tutorial.simulate.cxr_embeddings.cxr_embeddings`.
    """
    settings, out = settings or study.Settings(), Path(out)
    _check_extra()
    cohort = cxr_embeddings(CxrDesign.with_causes(*CAUSES), studies, settings.seed, features)
    inputs = {"simulated": True, "causes": list(CAUSES), "studies": studies, "features": features}
    return _audited(cohort, out, settings, inputs, progress)


def _audited(cohort: Cohort, out: Path, settings: study.Settings, inputs: dict, progress: bool) -> Path:
    run = study.claim_folder(out, settings, inputs)
    found = tables.publish(study.run(cohort, out, settings, progress))
    for name, table in found.items():
        stamped = table.assign(data="simulated" if inputs["simulated"] else "from patients")
        write_text(out / "tables" / f"{name}.csv", stamped.to_csv(index=False, lineterminator="\n"))
    write_text(out / "report.html", report.page(found, run))
    return out / "report.html"


def _check_extra() -> None:
    """Say what is missing before the long part, not after it."""
    for name in ("jinja2", "tensorboard"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"the audit needs {name}: pip install 'bias-tutorial[report]'")
