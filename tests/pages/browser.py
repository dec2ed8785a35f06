"""A Chromium that has no network, and pages that remember every fault they show."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = Path(os.environ.get("BOOK_HTML", Path(__file__).resolve().parents[2] / "book" / "_build" / "html"))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 375, "height": 812}}
LOCAL = ("file:", "data:", "blob:", "about:")


def chromium() -> str | None:
    """Path of a Chromium or Chrome: the variable CHROMIUM, or the first one on PATH; None without one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def pages() -> list[str]:
    """Every page of the built book, as a path below its folder; index.html only leads on to the first one."""
    found = (path.relative_to(HTML) for path in HTML.rglob("*.html"))
    return sorted(path.as_posix() for path in found if "_static" not in path.parts and path.name != "index.html")


@dataclass
class Faults:
    """What went wrong on a page while it was open."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def watch(self, page, local: tuple[str, ...]) -> None:
        """Record what was loaded, requests that leave the book, errors of scripts, and files that could not be read."""
        page.on("request", lambda r: (self.loaded if r.url.startswith(local) else self.requests).append(r.url))
        page.on("response", lambda r: self.errors.append(f"{r.status} for {r.url}") if r.status >= 400 else None)
        page.on("requestfailed", lambda r: self.errors.append(f"could not load {r.url}: {r.failure}"))
        page.on("console", lambda m: self.errors.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(f"script: {e}"))


def serve() -> tuple[ThreadingHTTPServer, str]:
    """Serve the built book to this machine alone; the server, to be shut down, and its address."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def open_page(browser, name: str, size: str = "desktop", theme: str = "light", query: str = "",
              served: str | None = None):
    """A page in a fresh context without network; returns the page and its :class:`Faults`.

    It is opened as a file or, where `served` is the address of a server on this machine, from there.
    """
    # A context without any network could not reach the server either: there, what is not local is cut off one by one.
    context = browser.new_context(viewport=SIZES[size], offline=served is None, has_touch=size == "phone",
                                  reduced_motion="reduce", service_workers="block")
    local = LOCAL + ((served,) if served else ())
    context.route(lambda url: not url.startswith(local), lambda route: route.abort())
    context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');")
    page, faults = context.new_page(), Faults()
    faults.watch(page, local)
    page.goto((served + name if served else (HTML / name).as_uri()) + query, wait_until="load")
    page.wait_for_function("!window.MathJax || !MathJax.startup || !MathJax.startup.promise ||"
                           "MathJax.startup.promise.then(() => true)")
    return page, faults
