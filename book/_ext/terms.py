"""Words of the glossary: the first use on a page is a link to the entry and carries its definition.

``terms.js`` shows the definition on hover and on keyboard focus; by touch, or without scripts, the link leads to the
glossary. Words in headings, links, code, captions and titles stay as they are.
"""

from __future__ import annotations

import html
import re

from docutils import nodes
from sphinx import addnodes

GLOSSARY = "glossary"
# Pages that speak of other things by the same words, such as a reader of files, or that quote.
SILENT_PAGES = {GLOSSARY, "references", "data", "functions", "licences", "changes", "cite", "downloads"}
# Everyday words that an entry gives a special meaning to, and that often stand for themselves.
EVERYDAY = {"reduce", "interval", "claim", "within class", "observer", "reader", "dose", "mark", "pooled"}
CLOSED = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw,
          nodes.caption, nodes.rubric, nodes.citation, nodes.footnote, nodes.table, addnodes.pending_xref,
          addnodes.download_reference)
OPEN = (nodes.paragraph, nodes.list_item)
TERM_LINK = re.compile(r'<a class="(?P<classes>[^"]*)" href="(?P<href>[^"]*)#(?P<id>term-[^"]+)"')


def spellings(term: str) -> list[str]:
    """How a word of the glossary is written in a text: each of its names, without what is in brackets."""
    names = [name.strip() for name in re.sub(r"\(.*?\)", "", term).split(",")]
    return [name for name in names if name and name.lower() not in EVERYDAY] if "(" not in term else []


def pattern_of(name: str) -> re.Pattern:
    """Matches a name, also with a capital or in the plural; names in capitals only as they are."""
    words = r"\s+".join(re.escape(word) for word in name.split())
    return re.compile(rf"(?<![\w-]){words}(?:s|es)?(?![\w-])", 0 if name.isupper() else re.I)


def collect(app, env) -> list[str]:
    """Read the glossary once all pages are read: (label, definition) of every entry, and the names to look for."""
    env.bt_definitions, env.bt_names = {}, []
    if GLOSSARY not in env.found_docs:
        return []
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        definition = " ".join(part.astext() for part in item.findall(nodes.definition)).replace("\n", " ")
        for term in item.findall(nodes.term):
            label = next((name for name in term["ids"] if name.startswith("term-")), None)
            if label:
                env.bt_definitions[label] = definition
                env.bt_names += [(name, pattern_of(name), label) for name in spellings(term.astext())]
    env.bt_names.sort(key=lambda entry: -len(entry[0]))  # the longest name that fits wins
    return []


def link_first_uses(app, doctree, docname) -> None:
    """Turn the first use of each word on a page into a link to its entry."""
    names = getattr(app.env, "bt_names", [])
    if docname in SILENT_PAGES or not names:
        return
    done: set[str] = set()
    target = app.builder.get_relative_uri(docname, GLOSSARY)
    for text in list(doctree.findall(nodes.Text)):
        parents = list(above(text))
        if any(isinstance(p, CLOSED) for p in parents) or not any(isinstance(p, OPEN) for p in parents):
            continue
        found = matches(str(text), names, done)
        if found:
            text.parent.replace(text, pieces(str(text), found, target))


def above(node) -> list:
    """The node's parents, the nearest first."""
    chain = []
    while node.parent is not None:
        node = node.parent
        chain.append(node)
    return chain


def matches(text: str, names, done: set[str]) -> list[tuple[int, int, str]]:
    """(start, end, label) of every first use in a text, in order and without overlap; `done` learns their labels."""
    taken: list[tuple[int, int, str]] = []
    for _, pattern, label in names:
        if label in done:
            continue
        for found in pattern.finditer(text):
            if all(found.end() <= start or found.start() >= end for start, end, _ in taken):
                taken.append((*found.span(), label))
                done.add(label)
                break
    return sorted(taken)


def pieces(text: str, found: list[tuple[int, int, str]], target: str) -> list[nodes.Node]:
    """A text cut up, with a link in the place of each use."""
    parts, end = [], 0
    for start, stop, label in found:
        parts += [nodes.Text(text[end:start])] if start > end else []
        parts.append(nodes.reference("", text[start:stop], internal=True, refuri=f"{target}#{label}"))
        end = stop
    return parts + ([nodes.Text(text[end:])] if end < len(text) else [])


def add_definitions(app, pagename, templatename, context, doctree) -> None:
    """Give every link to an entry its definition, also where an author has set the link."""
    known = getattr(app.env, "bt_definitions", {})
    if pagename == GLOSSARY or not context.get("body") or not known:
        return

    def with_definition(link: re.Match) -> str:
        if link["id"] not in known:
            return link[0]
        words = html.escape(known[link["id"]])
        return (f'<a class="{link["classes"]} bt-term" href="{link["href"]}#{link["id"]}" '
                f'data-definition="{words}"')

    context["body"] = TERM_LINK.sub(with_definition, context["body"])


def setup(app) -> dict:
    """Connect the handlers to Sphinx's events."""
    app.connect("env-updated", collect)
    app.connect("doctree-resolved", link_first_uses, priority=900)
    app.connect("html-page-context", add_definitions)
    app.add_js_file("terms.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
