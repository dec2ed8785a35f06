"""From matplotlib's SVG to one that fits a page: the page's ink and font, no id that could clash, small pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
from PIL import Image

INK = "#010203"
"""Whatever is drawn in this colour is written as "currentColor", the ink of the page."""
LARGEST = 1.2
"""A figure grows to this multiple of its natural width where there is room."""
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


def page_svg(figure, alt: str) -> str:
    """Draw, then keep only what a page needs. Ids are made from the content, so equal figures give equal text."""
    raw = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bias-tutorial", "svg.image_inline": True}):
        figure.savefig(raw, format="svg", transparent=True, dpi=72, metadata={"Date": None})
    root = ElementTree.fromstring(raw.getvalue())
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in list(parent):
            # matplotlib's style sheet would reach the whole page; its two settings are made on the root instead.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    used = set(re.findall(rb'(?:url\(#|href="#)([^)"]+)', raw.getvalue()))
    salt = hashlib.sha256(raw.getvalue()).hexdigest()[:8]
    for element in root.iter():
        _clean(element, {name.decode() for name in used}, salt)
    _prune(root)
    _, _, width, height = (float(v) for v in root.get("viewBox").split())
    root.attrib.clear()
    look = (f"display:block;width:100%;height:auto;max-width:{width * LARGEST / 72:.2f}in;margin:0 auto;"
            f"font-family:{_FONTS};stroke-linejoin:round;stroke-linecap:butt;background:transparent")
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" class="bt-svg" role="img" aria-label="{html.escape(alt)}" '
            f'viewBox="0 0 {width:g} {height:g}" style="{html.escape(look)}">')
    return head + "".join(ElementTree.tostring(child, encoding="unicode") for child in root) + "</svg>"


def page_png(figure, dpi: int) -> bytes:
    """Draw as pixels on white, black where a page would use its own ink."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return raw.getvalue()


def _clean(element, used: set[str], salt: str) -> None:
    """Page ink, page font, unique ids, short numbers, small images."""
    element.tail = None
    if element.tag != "text" and element.tag != "tspan":
        element.text = None
    attributes = {}
    for name, value in element.attrib.items():
        name = name.rpartition("}")[2]
        value = re.sub(r"url\(#", f"url(#{salt}-", value.replace(INK, "currentColor"))
        if name == "id":
            if value not in used:
                continue
            value = f"{salt}-{value}"
        elif name == "href":
            value = _small_image(value) if value.startswith("data:") else f"#{salt}-{value[1:]}"
        elif name in ("d", "x", "y", "points"):
            value = " ".join(re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m.group()):.2f}", value).split())
        elif name == "style" and element.tag == "image":
            continue  # matplotlib asks for hard pixels; smooth ones are calmer and truer to a scan
        elif name == "style":
            # The page's font, not ours: matplotlib writes "font: bold 10px name" or the same in single properties.
            value = re.sub(r"font: ((?:\S+ )*?)([\d.]+)px [^;]*", _font, re.sub(r"font-family: [^;]*(; )?", "", value))
        elif name == "transform" and value.startswith("rotate(-0 "):
            continue
        attributes[name] = value
    element.attrib.clear()
    element.attrib.update(attributes)


def _font(match: re.Match) -> str:
    weight = next((w for w in match.group(1).split() if w in ("bold", "700")), "normal")
    return f"font-size: {match.group(2)}px; font-weight: {weight}"


def _prune(element) -> None:
    """Drop what shows nothing, and unwrap groups that say nothing."""
    children = []
    for child in element:
        _prune(child)
        plain = child.tag == "g" and not child.attrib
        invisible = child.tag == "path" and child.get("style") == "fill: none"
        if invisible or (child.tag in ("g", "defs") and not len(child)):
            continue
        children += list(child) if plain else [child]
    element[:] = children


def _small_image(address: str) -> str:
    """Re-encode an embedded picture with one byte a pixel: exact for greys, 256 chosen colours for the rest."""
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))).convert("RGBA")
    pixels = np.asarray(image)
    if (pixels[..., 3] == 255).all():
        grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
        image = Image.fromarray(pixels[..., 0]) if grey else image.convert("RGB").quantize(256)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
