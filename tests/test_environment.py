"""The environment check, the set-up line, and torchvision beside CPU torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bias_tutorial import check_env, environment, ready

ROOT = Path(__file__).resolve().parents[1]
TORCHVISION = """
import torch, torchvision
from torchvision.extension import _has_ops
from torchvision.models import resnet18
assert resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
print("operators", _has_ops())
"""
# torch and torchvision in miniature, in three states: where the operators are loaded, `define` must never be called
TORCH = '''
class _Operators:
    def __getattr__(self, name):
        raise AttributeError(name)
class ops:
    torchvision = _Operators()
class library:
    defined = []
    def define(name, signature):
        library.defined.append(name)
        setattr(ops.torchvision, name.rpartition(":")[2], signature)
'''


def fresh(code: str, *first_on_path: Path, **env: str) -> subprocess.CompletedProcess:
    """Run code in a new Python process."""
    path = os.pathsep.join(map(str, [*first_on_path, ROOT]))
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path, **env})


def stand_in(folder: Path, has_ops: bool) -> Path:
    """Write a torch and a torchvision whose compiled operators are there or not."""
    (folder / "torchvision").mkdir(parents=True)
    (folder / "torch.py").write_text(TORCH)
    (folder / "torchvision" / "__init__.py").write_text("from . import extension, _meta_registrations\n")
    (folder / "torchvision" / "extension.py").write_text(f"def _has_ops():\n    return {has_ops}\n")
    (folder / "torchvision" / "_meta_registrations.py").write_text("loaded = True\n")
    return folder


# ---------------------------------------------------------------------- torchvision
def test_torchvision_works_beside_this_torch_and_owes_it_to_the_mend():
    """Without the mend the import fails exactly where no compiled operators can be loaded, and only there."""
    mended, bare = fresh("import bias_tutorial" + TORCHVISION), fresh(TORCHVISION)
    assert mended.returncode == 0, mended.stderr
    if mended.stdout.strip() == "operators True":
        assert bare.returncode == 0, bare.stderr
    else:
        assert bare.returncode != 0
        assert "torchvision::nms does not exist" in bare.stderr


@pytest.mark.parametrize("has_ops", [True, False])
def test_the_mend_acts_only_where_operators_are_missing(tmp_path, has_ops):
    code = ("import bias_tutorial, torch, torchvision\n"
            "assert torchvision._meta_registrations.loaded\n"
            "print(torch.library.defined)")
    done = fresh(code, stand_in(tmp_path / "p", has_ops))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("[]" if has_ops else "['torchvision::nms', 'torchvision::qnms']")


def test_the_mend_leaves_a_known_operator_alone(tmp_path):
    folder = stand_in(tmp_path / "p", False)
    with (folder / "torch.py").open("a") as file:
        file.write("ops.torchvision.nms = 'from elsewhere'\n")
    done = fresh("import bias_tutorial, torch, torchvision; print(torch.library.defined)", folder)
    assert done.stdout.strip() == "['torchvision::qnms']", done.stderr


def test_the_mend_is_installed_once():
    before = [type(finder).__name__ for finder in sys.meta_path].count("TorchvisionMend")
    environment.mend_torchvision()
    assert before == [type(finder).__name__ for finder in sys.meta_path].count("TorchvisionMend") == 1


def test_importing_the_package_is_fast_and_loads_nothing_else():
    code = ("import sys, time; before = set(sys.modules); start = time.perf_counter(); import bias_tutorial\n"
            "print(time.perf_counter() - start)\n"
            "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))")
    seconds, modules = fresh(code).stdout.splitlines()
    assert modules == "bias_tutorial"
    assert float(seconds) < 1, "torch alone takes longer than this"


# ---------------------------------------------------------------------- packages
def test_all_is_well_here():
    report = check_env()
    assert report.ok, str(report)
    assert "✓ everything that is needed is here" in str(report) and repr(report) == str(report)
    assert report.versions["Python"] == ".".join(map(str, sys.version_info[:3]))
    names = [p.name for p in report.packages]
    assert {"torch", "numpy", "pandas", "pydicom"} <= set(names)
    for package in report.packages:
        assert package.name in str(report)


def declare(monkeypatch, *lines: str) -> None:
    monkeypatch.setattr(environment, "_requirements", lambda: list(lines))


def test_missing_and_outdated_packages_come_with_the_command_that_mends(monkeypatch):
    declare(monkeypatch, "numpy>=999", "no-such-package>=1.2", "pandas>=2")
    report = check_env()
    assert not report.ok
    states = {p.name: p.state for p in report.packages}
    assert states == {"numpy": "outdated", "no-such-package": "missing", "pandas": "ok"}
    commands = [command for _, command in report.problems]
    install = f"{environment.shlex.quote(sys.executable)} -m pip install"
    assert commands == [f"{install} 'no-such-package>=1.2'", f"{install} --upgrade 'numpy>=999'"]
    for what, command in report.problems:
        assert what in str(report) and command in str(report)
    assert "✓" not in str(report)


def test_a_missing_extra_is_no_problem_but_is_told(monkeypatch):
    declare(monkeypatch, 'no-such-package>=1.2; extra == "readers"')
    report = check_env()
    assert report.ok
    assert "optional (readers)" in str(report) and "pip install 'no-such-package>=1.2'" in str(report)


def test_a_package_that_cannot_be_imported_is_broken(tmp_path):
    """A torch whose libraries are gone: installed by its metadata, dead on import."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    done = fresh("import bias_tutorial; r = bias_tutorial.check_env(); print(r); raise SystemExit(not r.ok)", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "libtorch_cpu.so: cannot open" in done.stdout and "--force-reinstall" in done.stdout
    assert "device           cpu" in done.stdout


def test_the_check_survives_the_absence_of_packaging(tmp_path):
    (tmp_path / "packaging").mkdir()
    (tmp_path / "packaging" / "__init__.py").write_text("raise ImportError('not here')")
    done = fresh("import bias_tutorial; print(bias_tutorial.check_env().problems)", tmp_path)
    assert "packaging: not installed" in done.stdout, done.stderr


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(environment, "OLDEST_PYTHON", (4, 2))
    report = check_env()
    assert not report.ok
    assert "too old, 4.2 or newer is needed" in str(report)


# ---------------------------------------------------------------------- the set-up line
def test_ready_prints_one_line(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # another test may have loaded it
    ready()
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert text.startswith("✓ bias_tutorial ") and " ready (torch " in text
    assert text.rstrip().endswith((", fp32)", ", bf16)"))


def test_ready_is_green_in_a_notebook_only(capsys, monkeypatch):
    monkeypatch.delenv("BIAS_TUTORIAL_BOOK", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    ready()
    assert capsys.readouterr().out.startswith("\x1b[32m✓")
    for name in ("NO_COLOR", "BIAS_TUTORIAL_BOOK"):
        monkeypatch.setenv(name, "1")
        ready()
        assert capsys.readouterr().out.startswith("✓")
        monkeypatch.delenv(name)


def test_ready_refuses_where_something_is_missing(monkeypatch):
    declare(monkeypatch, "no-such-package>=1.2")
    with pytest.raises(ImportError, match="no-such-package>=1.2: not installed; mend it with: .* -m pip install"):
        ready()


def test_an_old_console_gets_plain_letters():
    done = fresh("import bias_tutorial; bias_tutorial.ready()", PYTHONIOENCODING="cp1252")
    assert done.stdout.startswith("OK bias_tutorial"), done.stderr


# ---------------------------------------------------------------------- device, precision, memory
@pytest.mark.parametrize("flags, limit, expected", [
    ({"avx512_f"}, None, "fp32"),
    (set(), None, "fp32"),
    ({"avx512_bf16"}, None, "bf16"),
    ({"amx_bf16", "avx512_bf16"}, None, "bf16"),
    ({"avx512_bf16"}, "AVX2", "fp32"),
    ({"avx512_bf16"}, "avx2_vnni", "fp32"),
    ({"avx512_bf16"}, "AVX", "fp32"),
    ({"avx512_bf16"}, "SSE41", "fp32"),
    ({"avx512_bf16"}, "AVX512_CORE", "fp32"),
    ({"avx512_bf16"}, "AVX512_CORE_VNNI", "fp32"),
    ({"avx512_bf16"}, "AVX512_CORE_BF16", "bf16"),
    ({"amx_bf16"}, "AVX512_CORE_AMX", "bf16"),
    ({"avx512_bf16"}, "DEFAULT", "bf16"),
])
def test_precision_by_capability_of_the_processor(monkeypatch, flags, limit, expected):
    monkeypatch.setattr(environment, "_cpu_flags", lambda: flags)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    chosen, reason = environment.precision("cpu")
    assert chosen == expected
    assert reason


@pytest.mark.parametrize("capability, expected", [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_precision_by_capability_of_a_cuda_card(monkeypatch, capability, expected):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    chosen, reason = environment.precision("cuda")
    assert chosen == expected
    assert f"{capability[0]}.{capability[1]}" in reason


def test_precision_on_apple_cards():
    assert environment.precision("mps")[0] == "fp32"


@pytest.mark.parametrize("cuda, mps, expected", [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_device(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert environment.device() == expected


def test_a_cuda_card_is_reported_with_its_memory(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Card X")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (2 * environment.GIB, 4 * environment.GIB))
    text = str(check_env())
    assert "cuda (Card X)" in text and "2.0 GiB free of 4.0 GiB" in text and "bf16" in text


def test_flags_fall_back_to_what_linux_says(monkeypatch):
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    monkeypatch.setattr(environment, "_read", lambda path: "processor : 0\nflags\t\t: fpu avx512_bf16 sse\nflags : x\n")
    assert environment._cpu_flags() == {"fpu", "avx512_bf16", "sse"}


MEMINFO = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\n"


V2, V1 = "/sys/fs/cgroup/", "/sys/fs/cgroup/memory/"


@pytest.mark.parametrize("limit, used, forgettable, expected", [
    ("max", "77", 0, (400, 1000)),
    ("", "", 0, (400, 1000)),
    (500, 200, 0, (300, 500)),
    (500, 50, 0, (400, 500)),
    (500, 450, 150, (200, 500)),
    (500, 501, 0, (0, 500)),
    (5000, 0, 0, (400, 1000)),
])
@pytest.mark.parametrize("names", [
    (V2 + "memory.max", V2 + "memory.current", V2 + "memory.stat", "inactive_file"),
    (V1 + "memory.limit_in_bytes", V1 + "memory.usage_in_bytes", V1 + "memory.stat", "total_inactive_file")])
def test_memory_on_linux_respects_the_container(monkeypatch, names, limit, used, forgettable, expected):
    limit, used = (str(size * 1024) if isinstance(size, int) else size for size in (limit, used))
    stat = f"anon 17\n{names[3]} {forgettable * 1024}\nworkingset_refault_anon 3\n"
    texts = {"/proc/meminfo": MEMINFO, names[0]: limit, names[1]: used, names[2]: stat}
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment, "_read", lambda path: texts.get(path, ""))
    assert environment.memory() == tuple(size * 1024 for size in expected)


def test_memory_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(environment, "_read", lambda path: "")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.get)
    assert environment.memory() == (None, 40960)
    monkeypatch.setattr(os, "sysconf_names", {})
    assert environment.memory() == (None, None)
    assert environment._gib(None) == "unknown"
