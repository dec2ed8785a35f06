"""Limits around a submission's code: no network, no other files, bounded memory, and nothing left behind.

On Linux with user namespaces the kernel holds them: the code gets a network of its own with nothing in it but
loopback, its own process numbers, a read-only view of the disk in which masters, other submissions and the home folder
are covered, and no privileges. Where that is not allowed, Python itself refuses (an audit hook). That is weaker:
compiled code can go around it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

NETWORK, FILES, PROCESSES = "network", "files", "processes"
_USER, _MOUNT, _NET, _PID, _IPC = 0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x08000000
_READ_ONLY, _NOSUID, _NODEV, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
_SET_READ_ONLY, _ALL_BELOW, _MOUNT_SETATTR = 1, 0x8000, 442
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES, _CAPABILITIES = 1, 38, 0x20080522
_BLOCKED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
            "pty.spawn", "socket.bind", "socket.sendto", "socket.sendmsg", "os.kill", "os.killpg")
_NAMES = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
_HERE = {"127.0.0.1", "::1", "localhost", None, ""}


def die_with_parent() -> None:
    """On Linux: this process is killed when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, 9, 0, 0, 0)


def enter(work: str, hidden: list[str], tmp_mib: int = 256) -> list[str] | None:
    """Move this process into namespaces of its own; the next fork is the first process in there.

    Parameters
    ----------
    work : path
        Folder that stays writable, in memory.
    hidden : list of path
        Files and folders to cover.
    tmp_mib : int
        Size of ``work``, in MiB.

    Returns
    -------
    list of str or None
        What is separate now, of ``network``, ``files`` and ``processes``; None when the kernel allows nothing.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_USER | _MOUNT | _NET | _PID | _IPC):
        return None
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"65534 {user} 1")
        Path("/proc/self/gid_map").write_text(f"65534 {group} 1")
    except OSError:
        return None
    with suppress(OSError):
        _loopback()
    separate = [NETWORK, PROCESSES]
    with suppress(OSError):
        _mounts(libc, work, hidden, tmp_mib)
        separate.append(FILES)
    return separate


def _loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def _mounts(libc, work: str, hidden: list[str], tmp_mib: int) -> None:
    def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
        if libc.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data.encode()):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    mount("none", "/", None, _RECURSIVE | _PRIVATE)
    # Everything below / becomes read-only at once; what is mounted after that is not.
    wish = struct.pack("QQQQ", _SET_READ_ONLY, 0, 0, 0)
    if libc.syscall(_MOUNT_SETATTR, -100, b"/", _ALL_BELOW, wish, len(wish)):
        raise OSError(ctypes.get_errno(), "mount_setattr")
    for path in hidden:
        if Path(path).is_dir():
            mount("none", path, "tmpfs", _READ_ONLY | _NOSUID | _NODEV, "size=4k,mode=755")
        elif Path(path).exists():
            mount("/dev/null", path, None, _BIND)
    if Path("/dev/shm").is_dir():
        mount("none", "/dev/shm", "tmpfs", _NOSUID | _NODEV, "size=64m")
    mount("none", work, "tmpfs", _NOSUID | _NODEV, f"size={tmp_mib}m,mode=700")


def drop_privileges() -> None:
    """In the first process of the namespaces: see no other processes, and give up every right, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(_NOSUID | _NODEV), b"")  # where it is allowed
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.capset(struct.pack("Ii", _CAPABILITIES, 0), struct.pack("6I", *[0] * 6)):
        raise OSError(ctypes.get_errno(), "capset")


def limit(memory_mib: int, cpu_seconds: float) -> None:
    """Bound this process and what it starts: memory beyond what it has now, processor time, size of a file, no dump.

    Memory is bounded where the system counts it as Linux does (private data); elsewhere the grading watches it.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 64 * 2**20, resource.RLIMIT_CPU: int(cpu_seconds) + 1}
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
        limits[resource.RLIMIT_DATA] = now * 1024 + memory_mib * 2**20
    for name, most in limits.items():
        with suppress(ValueError, OSError):
            resource.setrlimit(name, (most, most))


def refuse_in_process(work: str, hidden: list[str]) -> None:
    """The weaker way: Python refuses to connect to other machines, to start processes, and to open what is covered.

    It cannot be taken back in this process. Libraries that are not written in Python can go around it.
    """
    covered = [os.path.realpath(path) for path in hidden]
    free = os.path.realpath(work)

    def below(path: str, folders: list[str]) -> bool:
        return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

    def hook(event: str, arguments: tuple) -> None:
        if event in _BLOCKED:
            raise PermissionError(f"{event} is not allowed while a submission is graded")
        if event in _NAMES:
            place = arguments[1] if event == "socket.connect" else arguments[0]
            host = place[0] if isinstance(place, tuple) and place else place
            host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
            if host not in _HERE:
                raise PermissionError("there is no network while a submission is graded")
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)) if isinstance(arguments[2], int) else False
            if below(path, covered) or (writes and not below(path, [free, os.sep + "dev"])):
                raise PermissionError(f"'{path}' is out of reach while a submission is graded")
        if event in ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree", "os.link",
                     "os.symlink") and not below(os.path.realpath(os.fsdecode(arguments[0])), [free]):
            raise PermissionError(f"{event} is not allowed outside the sheet's own folder")

    sys.addaudithook(hook)


def coverable(paths: list[str | Path], needed: list[str | Path]) -> list[str]:
    """Of these paths those that exist and can be covered: none holds a path that the submission needs."""
    must = [os.path.realpath(path) for path in needed]
    found = []
    for path in dict.fromkeys(os.path.realpath(path) for path in paths):
        holds = any(one == path or one.startswith(path.rstrip(os.sep) + os.sep) for one in must)
        if os.path.exists(path) and not holds:
            found.append(path)
    return found


def private(needed: list[str | Path]) -> list[str]:
    """The home folder and sockets of services, as far as they can be covered."""
    home = Path.home()
    wanted = coverable(["/run", "/var/run", home], needed)
    if os.path.realpath(home) not in wanted:
        with suppress(OSError):
            wanted += coverable([entry for entry in home.iterdir() if entry.name.startswith(".")], needed)
    return wanted
