"""The instructor's texts: Markdown with tagged numbers, filled from their sources and written as pages."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from markdown_it import MarkdownIt

from ..sources import Sources, check_text

_TAGGED = re.compile(r"(?P<sign>[-\u2212+]?)(?P<number>\d[\d,]*(?:\.\d+)?|\.\d+)(?P<percent>%?)"
                     r"(?P<tag><!--\s*=\s*(?P<source>.*?)\s*-->)")
_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
       background: #ffffff; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2rem; border-bottom: 1px solid #767676; }
table { border-collapse: collapse; width: 100%; } th, td { border: 1px solid #767676; padding: .3rem .5rem;
        text-align: left; vertical-align: top; }
pre { background: #f2f2f2; padding: .6rem; white-space: pre-wrap; } footer { margin-top: 3rem; color: #444444; }
@media print { h2 { break-after: avoid; } tr, pre { break-inside: avoid; } }
"""
FOOTER = ("Where Bias Hides. Text: CC BY 4.0, code: MIT. Numbers come from simulated patients unless a source is "
          "named. Not for clinical use.")


def filled(markdown: str, where: str, sources: Sources | None = None, tags: bool = False) -> str:
    """Fill every tagged number from its source, with the digits it is printed with.

    Parameters
    ----------
    markdown : str
        Text with tags as in the book (:mod:`bias_tutorial.prose`).
    where : str
        What to call it in an error.
    sources : Sources, optional
        What tags may name.
    tags : bool
        Keep the tags; without, the text is ready to be read.

    Raises
    ------
    ValueError
        For a tag that names nothing, or a number that is left without a source; the message names it.
    """
    sources = sources or Sources()

    def fill(match: re.Match) -> str:
        try:
            value, step = sources.look_up(match["source"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if value is None:
            raise ValueError(f"{where}: the tag '{match['source']}' names a run of a chapter, which is not stored")
        value *= 100 if match["percent"] else 1
        value = round(value / step) * step if step else value
        decimals = len(match["number"].partition(".")[2])
        text = f"{abs(value):,.{decimals}f}" if "," in match["number"] or abs(value) >= 1000 else \
            f"{abs(value):.{decimals}f}"
        negative = value < 0 and float(text.replace(",", "")) > 0
        sign = "\u2212" if negative else "+" if match["sign"] == "+" else ""
        return sign + text + match["percent"] + match["tag"]

    text = _TAGGED.sub(fill, markdown)
    if faults := check_text(text, where, sources):
        raise ValueError("; ".join(faults))
    return text if tags else plain(text)


def plain(markdown: str) -> str:
    """Text without HTML comments."""
    return re.sub(r"<!--.*?-->", "", markdown, flags=re.S)


def said(markup: str) -> str:
    """Text of a question of a quiz, without comments and elements."""
    return html.unescape(re.sub(r"<[^>]+>", "", plain(markup)))


def sections(markdown: str, level: int = 2) -> dict[str, str]:
    """Text under each heading of a level, by heading; what stands before the first has the key ``''``."""
    parts = re.split(rf"^{'#' * level} (.+)$", markdown, flags=re.M)
    names, bodies = ["", *parts[1::2]], [parts[0], *parts[2::2]]
    return {name.strip(): body.strip() for name, body in zip(names, bodies, strict=True)}


def items(markdown: str) -> list[str]:
    """Points of a list, each as one line of plain text."""
    found = re.split(r"^- ", markdown, flags=re.M)[1:]
    return [re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(item.split())) for item in found]


def page(title: str, markdown: str) -> str:
    """A page of its own, complete in one file, from Markdown without tags."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{_STYLE}</style></head><body><main>\n{reader.render(markdown)}</main>"
            f"<footer>{html.escape(FOOTER)}</footer></body></html>\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; line breaks and bars inside cells are taken out."""
    def line(cells):
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "/") for cell in cells) + " |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])


def fenced(code: str) -> str:
    """Code in a fence that nothing in it ends."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{code.strip()}\n{fence}"
