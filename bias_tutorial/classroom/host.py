"""The other end of :mod:`.student`: starts sittings, asks with a deadline, and ends what does not answer."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import confine, values

LONGEST = 128 * 2**20  # bytes of one answer
PREFIX = "bias-tutorial-sitting"
STARTUP = 300.0  # seconds: a cold disk and a busy machine


class Gone(BaseException):
    """The sitting has ended, or had to be ended. Not an ``Exception``: no check may take it for a wrong answer."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    Parameters
    ----------
    seconds : float
        For each cell, and for the tests of each question.
    memory_mib : int
        Beyond what the loaded libraries take.
    """

    seconds: float = 30.0
    memory_mib: int = 2048


class Host:
    """Starts sittings; one at a time.

    Parameters
    ----------
    limits : Limits
        Of every sitting.
    hidden : list of path
        What no submission may read: masters, other submissions, grades.
    fork : bool, optional
        Fork sittings from one process that is loaded already; on Linux when not given.
    """

    def __init__(self, limits: Limits, hidden: list[str], fork: bool | None = None):
        self.limits = limits
        self.fork = sys.platform == "linux" if fork is None else fork
        needed = [sys.prefix, sys.base_prefix, sys.executable, Path(__file__).parents[1],
                  *filter(os.path.exists, sys.path)]
        self.hidden = confine.coverable([*hidden, *confine.private(needed)], needed)
        self.process: subprocess.Popen | None = None
        self.control: socket.socket | None = None

    def enter(self) -> Sitting:
        """A new sitting, with nothing run yet."""
        work = tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-")
        hidden = [path for path in self.hidden if not os.path.realpath(work).startswith(path + os.sep)]
        settings = {"work": os.path.realpath(work), "hidden": hidden, "memory_mib": self.limits.memory_mib,
                    "cpu_seconds": 40 * self.limits.seconds + 120, "number": secrets.token_hex(8)}
        if not self.fork:
            process = subprocess.Popen([sys.executable, "-m", __package__ + ".student"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(),
                                       start_new_session=True)
            return Sitting(self, settings, process.stdout.fileno(), process.stdin.fileno(), process.pid, process)
        for attempt in (1, 2):
            try:
                self._start()
                ours, theirs = socket.socketpair()
                with theirs:
                    socket.send_fds(self.control, [json.dumps(settings).encode()], [theirs.fileno()])
                pid = int(self._line())
                return Sitting(self, settings, ours.fileno(), ours.fileno(), pid, ours)
            except (OSError, ValueError):
                self.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def _start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self.close()
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __package__ + ".student", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
        self.control.settimeout(STARTUP)

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            part = self.control.recv(1)
            if not part:
                raise OSError("the process that starts sittings has ended")
            line += part
        return line

    def ended(self) -> int:
        """How the last sitting ended, once it has."""
        return int(self._line())

    def close(self) -> None:
        """End the process that forks sittings."""
        if self.control is not None:
            self.control.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = self.control = None


class Sitting:
    """One process in which a submission's cells run; made by :meth:`Host.enter`."""

    def __init__(self, host: Host, settings: dict, reads: int, writes: int, pid: int, held: Any):
        self.host, self.settings, self.pid, self.held = host, settings, pid, held
        self.reads, self.writes, self.buffer, self.open = reads, writes, b"", True
        for end in {reads, writes}:
            os.set_blocking(end, False)
        if not host.fork:
            self._write(json.dumps(settings).encode() + b"\n", time.monotonic() + STARTUP)
        self.separate = self._read(settings["number"], time.monotonic() + STARTUP)["separate"]

    def ask(self, request: dict, seconds: float | None = None) -> dict:
        """Send a request and wait for its answer.

        Raises
        ------
        Gone
            No answer in time, or the process has ended; the sitting is closed then.
        """
        if not self.open:
            raise Gone("it had ended before")
        until = time.monotonic() + (self.host.limits.seconds if seconds is None else seconds)
        number = secrets.token_hex(8)
        self._write(json.dumps(request | {"number": number}).encode() + b"\n", until)
        return self._read(number, until)

    def value(self, packed: Any) -> Any:
        """A value that came over; things that stayed there become :class:`values.Remote`."""
        def remote(number: int, said: str) -> values.Remote:
            return values.Remote(self.request, number, said)
        return values.unpack(packed, remote)

    def request(self, request: dict) -> Any:
        """Ask for something that has a value, for a :class:`values.Remote`."""
        def refuse(thing):
            raise values.Strange("a test cannot hand this over")

        plain = {key: held for key, held in request.items() if key in ("do", "of", "name")}
        if request["do"] == "call":
            plain["arguments"] = [values.pack(one, refuse) for one in request["arguments"]]
            plain["named"] = {key: values.pack(one, refuse) for key, one in request["named"].items()}
        if request["do"] == "item":
            plain["item"] = values.pack(request["item"], refuse)
        reply = self.ask(plain)
        if reply.get("raised"):
            name, said = (str(part) for part in reply["raised"][:2])
            raise type(name if name.isidentifier() else "Error", (Exception,), {})(said)
        return self.value(reply.get("value"))

    def close(self) -> int | None:
        """End the process and everything it started; how it ended, where that is known."""
        if not self.open:
            return None
        self.open = False
        with suppress(OSError):  # it leads a group of its own
            os.killpg(self.pid, signal.SIGKILL) if hasattr(os, "killpg") else self.held.kill()
        status = None
        if self.host.fork:
            self.held.close()
            with suppress(OSError, ValueError):
                status = self.host.ended()
        else:
            self.held.kill()
            status = self.held.wait()
            self.held.stdin.close()
            self.held.stdout.close()
        shutil.rmtree(self.settings["work"], ignore_errors=True)
        return status

    def _write(self, content: bytes, until: float) -> None:
        while content:
            self._wait(self.writes, selectors.EVENT_WRITE, until)
            try:
                content = content[os.write(self.writes, content[:65536]):]
            except BlockingIOError:
                continue
            except OSError:
                self._gone("its process ended")

    def _read(self, number: str, until: float) -> dict:
        """The answer to the request of this number; every other line was written by something else."""
        while True:
            line = self._line(until)
            try:
                reply = json.loads(line)
                if isinstance(reply, dict) and reply.get("number") == number:
                    return reply
            except (ValueError, RecursionError):
                continue

    def _line(self, until: float) -> bytes:
        parts, size = [self.buffer], len(self.buffer)
        while b"\n" not in parts[-1]:
            self._wait(self.reads, selectors.EVENT_READ, until)
            try:
                part = os.read(self.reads, 1 << 20)
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            size += len(part)
            if not part:
                self._gone("its process ended")
            if size > LONGEST:
                self._gone("it sent more than a test can take")
            parts.append(part)
        line, _, self.buffer = b"".join(parts).partition(b"\n")
        return line

    def _wait(self, end: int, event: int, until: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(end, event)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    self._gone("it took too long")
                if selector.select(min(left, 0.5)):
                    return
                if _used_mib(self.pid) > 1.5 * self.host.limits.memory_mib + 1024:
                    self._gone("it used too much memory")

    def _gone(self, why: str) -> None:
        self.close()
        raise Gone(why)


def _used_mib(pid: int) -> float:
    """Memory of a process and all that it started; infinite when these are far too many."""
    try:
        import psutil

        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
        if len(family) > 100:
            return float("inf")
        return sum(one.memory_info().rss for one in family if one.is_running()) / 2**20
    except Exception:  # it may end at any moment, and psutil is an extra
        return 0.0


def _environment() -> dict[str, str]:
    """What the process inherits: nothing that could hold a secret."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")
            if name in os.environ}
    single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    return kept | single | {"MPLBACKEND": "Agg", "PYTHONHASHSEED": "0"}


def tidy() -> int:
    """Remove folders of sittings whose grading is no longer running; how many."""
    removed = 0
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*-*"):
        owner = path.name.removeprefix(f"{PREFIX}-").split("-")[0]
        if owner.isdigit() and not _runs(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
