"""Make the built book work without a network, over ``file://``, and mend what its theme gets wrong for screen readers.

Jupyter Book's defaults load MathJax and thebe from the network. Here MathJax is copied out of the package
`sphinx-mathjax-offline` (only the one script and its fonts), the thebe scripts are left out, and any other remote
script or style that an extension adds stops the build, because a page that needs the network is broken in a class
without one.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset

MATHJAX = "mathjax/tex-chtml.js"
CITATIONS = re.compile(r'<div[^>]*class="[^"]*citation-list[^>]*>')
THEBE_IN_BODY = re.compile(r'<script type="text/x-thebe-config">.*?</script>|<script>kernelName = .*?</script>', re.S)
LOCAL_SUMMARY = "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = window.location.protocol !== 'file:';"


def use_local_mathjax(app, config) -> None:
    """Point Sphinx at the copy of MathJax in ``_static`` and put this folder's templates before the theme's."""
    config.mathjax_path = MATHJAX
    config.templates_path.insert(0, str(Path(__file__).parent / "templates"))


def copy_mathjax(app, error) -> None:
    """Copy the one MathJax script that the pages load and its fonts (1.7 MB instead of the package's 24)."""
    if error or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0]) / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in ("tex-chtml.js", "output/chtml/fonts/woff-v2"):
        copy_asset(str(source / part), str((target / part).parent if part.endswith(".js") else target / part))


def leave_out_source_maps(app, error) -> None:
    """Drop the theme's source maps: no page loads them, and they are a quarter of the book that a class copies."""
    if not error and app.builder.format == "html":
        for path in (Path(app.outdir) / "_static").rglob("*.map"):
            path.unlink()


def leave_out_remote_files(app, pagename, templatename, context, doctree) -> None:
    """Drop the scripts of thebe, refuse every other remote file, and mend the roles in a bibliography."""
    kept = []
    for file in context.get("script_files", []):
        name = str(getattr(file, "filename", file) or "")
        body = str(getattr(file, "attributes", {}).get("body", ""))
        if "thebe" in name or "THEBE_JS_URL" in body:
            continue
        kept.append(file)
    context["script_files"] = kept
    for file in [*kept, *context.get("css_files", [])]:
        name = str(getattr(file, "filename", file) or "")
        if re.match(r"(https?:)?//", name):
            raise ExtensionError(f"{pagename}: an extension adds the remote file {name}; the book must work offline")
    if context.get("body"):
        body = THEBE_IN_BODY.sub("", context["body"])
        # A list of citations holds doc-biblioentry, which the role "list" does not allow.
        context["body"] = CITATIONS.sub(lambda found: found[0].replace(' role="list"', ""), body)


def setup(app) -> dict:
    """Connect the handlers to Sphinx's events."""
    app.connect("config-inited", use_local_mathjax, priority=900)
    app.connect("html-page-context", leave_out_remote_files, priority=900)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", leave_out_source_maps, priority=900)  # when everything else is copied
    # A page opened as a file may not fetch other pages, so results come without a summary there.
    app.add_js_file(None, body=LOCAL_SUMMARY, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
