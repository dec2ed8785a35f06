"""What this machine offers: versions, device, precision, memory; and a mend for torchvision beside CPU torch.

Only the standard library is imported at the top, so that ``import bias_tutorial`` stays fast and ``check_env`` can
say what is missing when something is.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

DISTRIBUTION = "bias-tutorial"
OLDEST_PYTHON = (3, 11)
GIB = 1024**3
# Where Linux states a container's memory, in version 2 and version 1 of its control groups.
CGROUPS = (("/sys/fs/cgroup", "memory.max", "memory.current"),
           ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
_GREEN, _RED, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


class Package(NamedTuple):
    """One dependency, as found here.

    ``needed`` is its version specifier, ``found`` the installed version (None when there is none), ``extra`` the group
    of optional dependencies it belongs to ('' when it is required), ``state`` one of 'ok', 'missing', 'outdated' and
    'broken' (installed, but it cannot be imported).
    """

    name: str
    needed: str
    found: str | None
    extra: str
    state: str


class Report(NamedTuple):
    """What :func:`check_env` found. Printed, it is the text of ``bias-tutorial doctor``.

    Attributes
    ----------
    versions : dict of str
        Of this package, of Python and of the system.
    packages : tuple of Package
        Every dependency, required ones first.
    device, device_name : str
        'cpu', 'cuda' or 'mps', and the name of the processor or graphics card.
    precision, reason : str
        'fp32' or 'bf16', and why.
    memory : dict
        ``(free, total)`` in bytes for 'machine' and, with a CUDA card, for 'cuda'; None where it cannot be known.
    problems : tuple of (str, str)
        What is wrong with something required, and the command that mends it. Empty when all is well.
    """

    versions: dict
    packages: tuple
    device: str
    device_name: str
    precision: str
    reason: str
    memory: dict
    problems: tuple

    @property
    def ok(self) -> bool:
        """True when nothing required is missing, too old or broken."""
        return not self.problems

    def __str__(self) -> str:
        rows = [("version", ", ".join(f"{name} {value}" for name, value in self.versions.items())),
                ("device", f"{self.device} ({self.device_name})"),
                ("precision", f"{self.precision}: {self.reason}")]
        rows += [(f"memory, {where}", f"{_gib(free)} free of {_gib(total)}")
                 for where, (free, total) in self.memory.items()]
        rows += [(p.name, _describe(p)) for p in self.packages]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        lines += [_paint(f"✗ {what}\n  mend it with: {command}", _RED) for what, command in self.problems]
        if self.ok:
            lines.append(_paint("✓ everything that is needed is here", _GREEN))
        return "\n".join(lines)

    __repr__ = __str__


def check_env() -> Report:
    """Look at this machine: versions, device, precision, memory, and what is missing.

    Returns
    -------
    Report
        Print it, or read its attributes; ``report.ok`` says whether everything required is here.

    Examples
    --------
    >>> report = check_env()
    >>> report.device in ("cpu", "cuda", "mps")
    True
    """
    from . import __version__

    packages = tuple(_packages())
    where = device()
    chosen, reason = precision(where)
    memory_found = {"machine": memory()}
    if where == "cuda":
        import torch

        memory_found["cuda"] = tuple(torch.cuda.mem_get_info())
    versions = {"bias_tutorial": __version__, "Python": platform.python_version(),
                "system": f"{platform.system()} {platform.machine()}"}
    return Report(versions, packages, where, _device_name(where), chosen, reason, memory_found,
                  tuple(_problems(packages)))


def ready() -> None:
    """Print the one line that ends the set-up cell of every chapter.

    Raises
    ------
    ImportError
        When something required is missing or too old; the message names it and the command that mends it.
    """
    from . import __version__

    wrong = list(_problems(_packages(try_import=("torch",))))
    if wrong:
        raise ImportError("; ".join(f"{what}; mend it with: {command}" for what, command in wrong))
    import torch

    where = device()
    name = {"cpu": "CPU", "mps": "Apple GPU"}.get(where) or _device_name(where)
    print(_paint(f"✓ bias_tutorial {__version__} ready (torch {torch.__version__.split('+')[0]} on {name}, "
                 f"{precision(where)[0]})", _GREEN))


# ---------------------------------------------------------------------- device, precision, memory
def device() -> str:
    """Return the fastest device here: 'cuda', 'mps' or 'cpu' ('cpu' also when torch cannot be imported)."""
    try:
        import torch
    except Exception:  # a broken torch may raise anything; _packages reports it
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision(where: str = "cpu") -> tuple[str, str]:
    """Choose the precision for training on a device, and say why.

    bf16 halves the time of a training step where the processor has it natively, and is several times *slower* than
    fp32 where it has to be emulated. So it is chosen by capability, never by default.

    Parameters
    ----------
    where : {'cpu', 'cuda', 'mps'}
        The device.

    Returns
    -------
    tuple of str
        'bf16' or 'fp32', and the reason in words.
    """
    if where == "cuda":
        import torch

        major, minor = torch.cuda.get_device_capability()
        if major >= 8:
            return "bf16", f"CUDA capability {major}.{minor} has it natively (8.0 or higher does)"
        return "fp32", f"CUDA capability {major}.{minor} is below 8.0, where bf16 begins"
    if where == "mps":
        return "fp32", "bf16 is not used on Apple GPUs"
    flags = {"avx512_bf16", "amx_bf16"} & _cpu_flags()
    if not flags:
        return "fp32", "this processor has neither avx512_bf16 nor amx_bf16, so bf16 would be emulated"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit.startswith(("SSE", "AVX2", "AVX512")) and not limit.endswith(("BF16", "FP16", "AMX")) or limit == "AVX":
        return "fp32", f"the processor has {', '.join(sorted(flags))}, but ONEDNN_MAX_CPU_ISA={limit} switches it off"
    return "bf16", f"this processor has {', '.join(sorted(flags))}"


def memory() -> tuple[int | None, int | None]:
    """Return free and total memory of the machine in bytes; None where this system does not tell.

    On Linux the limit of the container counts, not only what the machine has. Files that the container has read and
    the system may forget at any time count as free.
    """
    if sys.platform == "win32":
        return _memory_windows()
    free, total = None, None
    facts = _read("/proc/meminfo")
    if facts:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in facts.splitlines() if len(line.split()) > 1}
        total = kib["MemTotal"] * 1024
        free = kib.get("MemAvailable", kib["MemFree"]) * 1024
        limit, used = _memory_of_container()
        if limit is not None and limit < total:
            total, free = limit, max(0, min(free, limit - used))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return free, total


def _memory_of_container() -> tuple[int | None, int]:
    """Return the limit of this container's memory and what is in use, in bytes; (None, 0) without a limit."""
    for folder, limit_name, used_name in CGROUPS:
        limit, used = _read(f"{folder}/{limit_name}").strip(), _read(f"{folder}/{used_name}").strip()
        if limit.isdigit() and used.isdigit():
            facts = dict(line.split() for line in _read(f"{folder}/memory.stat").splitlines() if line.count(" ") == 1)
            forgettable = facts.get("total_inactive_file", facts.get("inactive_file", "0"))
            return int(limit), int(used) - int(forgettable)
    return None, 0


def _memory_windows():
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("size", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")]

    status = Status(size=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.free), int(status.total)


def _cpu_flags() -> set[str]:
    try:
        import torch

        known = torch.cpu.get_capabilities()
        return {name for name, value in known.items() if value is True}
    except Exception:  # torch is missing, broken, or older than this function: ask Linux
        lines = (line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags"))
        return set(next(lines, "").partition(":")[2].split())


def _device_name(where: str) -> str:
    if where == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = (line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name"))
    name = next(lines, "").partition(":")[2].strip() or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


# ---------------------------------------------------------------------- packages
def _requirements() -> list[str]:
    """Return the declared dependencies: from ``pyproject.toml`` in a checkout, else from the installed package."""
    from importlib import metadata

    project = Path(__file__).parent.parent / "pyproject.toml"
    if project.is_file():
        import tomllib

        declared = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if declared.get("name") == DISTRIBUTION:
            extras = declared.get("optional-dependencies", {})
            return declared["dependencies"] + [f'{line}; extra == "{e}"' for e in extras for line in extras[e]]
    return metadata.requires(DISTRIBUTION) or []


def _packages(try_import=("torch", "torchvision")):
    """Yield a :class:`Package` per declared dependency; the modules in `try_import` are really imported."""
    import importlib
    from importlib import metadata

    try:
        from packaging.requirements import Requirement
    except ImportError:  # without it no version can be compared, so it comes first
        yield Package("packaging", "", None, "", "missing")
        return
    for line in _requirements():
        requirement = Requirement(line)
        extra = line.partition("extra ==")[2].strip(" \"'")
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        found, state = None, "missing"
        try:
            found = metadata.version(requirement.name)
            state = "ok" if requirement.specifier.contains(found, prereleases=True) else "outdated"
            if requirement.name in try_import:
                importlib.import_module(requirement.name)
        except metadata.PackageNotFoundError:
            pass
        except Exception as error:  # a half-installed package may raise anything
            found, state = f"{found}, import fails with {type(error).__name__}: {error}", "broken"
        yield Package(requirement.name, str(requirement.specifier), found, extra, state)


def _problems(packages):
    """Yield what is wrong with the required packages and the command that mends it."""
    if sys.version_info < OLDEST_PYTHON:
        yield (f"Python {platform.python_version()} is too old, {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed",
               "install a newer Python, then make the environment again")
    wrong = [p for p in packages if not p.extra and p.state != "ok"]
    for state, option in (("missing", ()), ("outdated", ("--upgrade",)), ("broken", ("--force-reinstall",))):
        names = [p for p in wrong if p.state == state]
        if names:
            yield "; ".join(f"{p.name}{p.needed}: {_describe(p)}" for p in names), _pip(names, *option)


def _pip(packages, *options: str) -> str:
    command = [sys.executable, "-m", "pip", "install", *options, *(f"{p.name}{p.needed}" for p in packages)]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def _describe(package: Package) -> str:
    if package.state == "ok":
        return f"{package.found}"
    if package.extra and package.state == "missing":
        return f"not installed; optional ({package.extra}): {_pip([package])}"
    return {"missing": "not installed", "broken": f"broken ({package.found})",
            "outdated": f"{package.found} is too old, {package.needed} is needed"}[package.state]


# ---------------------------------------------------------------------- torchvision beside CPU torch
class TorchvisionMend:
    """A finder that finds nothing: it declares two operators just before torchvision needs to know their names.

    PyPI's torchvision beside a CPU build of torch cannot load its compiled operators, and its module
    ``_meta_registrations`` then fails on the unknown names ``nms`` and ``qnms``, so that ``import torchvision`` raises
    "operator torchvision::nms does not exist". Declared without an implementation they are harmless: models and
    transforms work, detection operators and ``torchvision.io`` stay unavailable. Where the operators are loaded,
    nothing is declared.
    """

    OPERATORS = ("nms", "qnms")
    SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

    def find_spec(self, name, path=None, target=None):
        """Declare what is missing when torchvision's registrations are about to load; always return None."""
        if name == "torchvision._meta_registrations":
            import torch
            from torchvision.extension import _has_ops

            if not _has_ops():
                for operator in self.OPERATORS:
                    if not hasattr(torch.ops.torchvision, operator):
                        torch.library.define(f"torchvision::{operator}", self.SIGNATURE)
        return None


def mend_torchvision() -> None:
    """Let ``import torchvision`` work beside a CPU build of torch; costs nothing until torchvision is imported."""
    if not any(type(finder).__name__ == TorchvisionMend.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionMend())


# ---------------------------------------------------------------------- text
def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"


def _paint(text: str, colour: str) -> str:
    """Colour text for a terminal or a notebook; plain in files, pipes, the book, and where NO_COLOR is set."""
    stream = sys.stdout
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # an old Windows console
        text = text.replace("✓", "OK").replace("✗", "--")
    plain = "NO_COLOR" in os.environ or "BIAS_TUTORIAL_BOOK" in os.environ
    coloured = not plain and (stream.isatty() or "ipykernel" in sys.modules)
    return f"{colour}{text}{_PLAIN}" if coloured else text
