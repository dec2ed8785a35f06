"""The process in which a submission's code runs; it knows neither tests nor right answers.

``python -m bias_tutorial.classroom.student`` waits with the usual libraries loaded. On Linux it forks one process for
each sitting, so that a submission costs no start-up; elsewhere one start is one sitting.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import confine, values

PRINTED = 20_000  # characters of a cell's output that are kept
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def warm() -> None:
    """Load what most sheets import, without starting a thread."""
    import matplotlib

    matplotlib.use("Agg")
    import IPython.core.interactiveshell  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    from .. import answer_key, evaluation, figures, plotting, scenario, simulate  # noqa: F401

    torch.set_num_threads(1)


def host(control: socket.socket) -> None:
    """Fork a sitting for each connection that comes over ``control``; returns when the other side is gone.

    Each request brings one end of a new connection. The answer is the number of the process, later how it ended.
    """
    while True:
        message, (end, *_), *_ = socket.recv_fds(control, 65536, 1) or (b"", ())
        if not message:
            return
        child = os.fork()
        if child == 0:
            control.close()
            os.setsid()
            confine.die_with_parent()
            connection = socket.socket(fileno=end)
            _sit(json.loads(message), connection)
        os.close(end)
        control.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _sit(settings: dict, connection: socket.socket) -> None:
    """In the forked process: close the doors, then serve. Never returns."""
    code = 1
    try:
        separate = confine.enter(settings["work"], settings["hidden"]) or []
        if confine.PROCESSES in separate:
            inside = os.fork()
            if inside:
                connection.close()
                _, status = os.waitpid(inside, 0)
                code = os.waitstatus_to_exitcode(status)
                code = 128 - code if code < 0 else code
                return
            confine.drop_privileges()
            confine.die_with_parent()
        serve(settings, separate, connection.makefile("rb"), connection.makefile("wb"))
        code = 0
    finally:
        os._exit(code)


def serve(settings: dict, separate: list[str], requests, replies) -> None:
    """Answer requests, one a line, until there are no more."""
    os.chdir(settings["work"])
    for name in ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        os.environ[name] = settings["work"]
    confine.limit(settings["memory_mib"], settings["cpu_seconds"])
    if confine.NETWORK not in separate or confine.FILES not in separate:
        confine.refuse_in_process(settings["work"], settings["hidden"])
    work = Desk(settings["work"])
    _send(replies, {"separate": separate, "number": settings["number"]})
    for line in requests:
        request = json.loads(line)
        number = request.pop("number")
        try:
            reply = getattr(work, f"do_{request.pop('do')}")(**request)
        except MemoryError:
            reply = {"raised": ["MemoryError", "out of the memory that a submission may use"]}
        except Exception as error:
            reply = {"raised": [type(error).__name__, str(error)[:500]]}
        _send(replies, reply | {"number": number})


def _send(replies, reply: dict) -> None:
    # Lines of its own: what a submission may have written there before must not swallow the answer.
    replies.write(b"\n" + json.dumps(reply).encode() + b"\n")
    replies.flush()


class Desk:
    """The names and things of one sitting, and what can be asked of them.

    Parameters
    ----------
    work : path
        Folder for the file that catches what is printed.
    """

    def __init__(self, work: str):
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        settings = Config()
        settings.HistoryManager.enabled = False
        settings.HistoryManager.hist_file = ":memory:"
        self.things: list[Any] = []
        self.printed = open(Path(work) / ".printed", "w+b", buffering=0)  # noqa: SIM115
        sys.stdout.flush(), sys.stderr.flush()
        for stream in (1, 2):
            os.dup2(self.printed.fileno(), stream)
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        self.shell = InteractiveShell.instance(config=settings)
        # Showing where it happened would need memory that is not there.
        self.shell.set_custom_exc((MemoryError,), lambda shell, kind, error, trace, tb_offset=None: [])
        self.names = self.shell.user_ns

    def do_run(self, code: str) -> dict:
        """Run a cell; what it printed and how it ended."""
        self.printed.seek(0)
        self.printed.truncate()
        done = self.shell.run_cell(code, store_history=False)
        with suppress(Exception):
            sys.stdout.flush(), sys.stderr.flush()
        error = done.error_before_exec or done.error_in_exec
        self.printed.seek(0)
        raw = self.printed.read(4 * PRINTED).decode("utf-8", "replace")
        said = None if error is None else [type(error).__name__, str(error)[:500]]
        return {"printed": _COLOURS.sub("", raw)[:PRINTED], "raised": said}

    def do_names(self, names: list[str]) -> dict:
        """Values of those names that there are."""
        found = {}
        for name in names:
            if name in self.names:
                try:
                    found[name] = {"value": self._pack(self.names[name])}
                except Exception as error:
                    found[name] = {"cannot": str(error)[:200]}
        return {"names": found}

    def do_call(self, of: int, arguments: list, named: dict) -> dict:
        """Call a thing."""
        given = [self._unpack(one) for one in arguments]
        return {"value": self._pack(self.things[of](*given, **{k: self._unpack(v) for k, v in named.items()}))}

    def do_attribute(self, of: int, name: str) -> dict:
        """An attribute of a thing."""
        return {"value": self._pack(getattr(self.things[of], name))}

    def do_item(self, of: int, item: Any) -> dict:
        """An item of a thing."""
        return {"value": self._pack(self.things[of][self._unpack(item)])}

    def do_length(self, of: int) -> dict:
        """How many parts a thing has."""
        return {"value": self._pack(len(self.things[of]))}

    def _pack(self, value: Any) -> Any:
        def keep(thing):
            self.things.append(thing)
            return len(self.things) - 1
        return values.pack(value, keep)

    def _unpack(self, packed: Any) -> Any:
        return values.unpack(packed, lambda number, said: self.things[number])


def main() -> None:
    """Be a host on Linux; elsewhere serve one sitting over the standard streams."""
    confine.die_with_parent()
    if len(sys.argv) == 2:
        warm()
        host(socket.socket(fileno=int(sys.argv[1])))
        return
    warm()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    serve(json.loads(requests.readline()), [], requests, replies)


if __name__ == "__main__":
    main()
