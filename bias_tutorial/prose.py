r"""Every number in the prose must come from somewhere: the reader of Markdown behind that check.

A numeral passes when one of these holds:

1. a tag stands right behind it, ``.205<!-- =key:curve(p=.7).tpr_gap -->``, and the source it names, rounded to the
   printed digits, is the printed number. Tags are HTML comments: no reader sees them.
   Grammar: ``=[-]SOURCE[*FACTOR][~STEP]``; ``-`` negates, ``FACTOR`` multiplies, ``STEP`` is the unit it was rounded
   to (600 for 587 with ``~100``). A per cent sign multiplies by 100 by itself. The sources are listed in
   :mod:`bias_tutorial.sources`;
2. it equals a value of the notebook's parameters cell (single digits need the tag ``=param:NAME``);
3. its sentence cites somebody: a ``{cite}`` role, a DOI, an arXiv number, a link to another site;
4. it lies in a match of the reviewed list ``stored/structural_numbers.yml`` ("chapter 1", "375 px").

Not prose: code blocks, inline code (unless it is nothing but a number), link targets, the numbering of headings, lists
and rows of tables, directive options, comments. A name may hold digits after a letter (MNI152). Formulas are prose,
except an integer of one digit that follows an operator or bracket and no ``=``, ``<``, ``>`` or ``\approx``, and
subscripts and exponents that are whole numbers. Number words are checked from eleven up, before "per cent", and in
"in nine of ten".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.attrs import attrs_plugin
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

HOLE = "\u25af"  # stands where something was that is not prose
UNITS = dict(zip("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
                 "seventeen eighteen nineteen".split(), range(1, 20), strict=True))
TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
LARGE = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 1e6, "billion": 1e9}
CITING_ROLES = ("cite",)
SILENT_ROLES = ("doc", "ref", "numref", "eq", "download", "prf:ref", "any")
SILENT_DIRECTIVES = ("code", "code-block", "code-cell", "bibliography", "toctree", "tableofcontents", "raw",
                     "literalinclude")
PATH_DIRECTIVES = ("figure", "image", "include", "math", "solution", "solution-start", *SILENT_DIRECTIVES)

_TAG = re.compile(r"<!--\s*=\s*(?P<tag>.*?)\s*-->", re.S)
_COMMENT_OR_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.S)
_READ_ALOUD = re.compile(r"""\b(?:alt|title|aria-label|placeholder)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_OWN_ADDRESS = re.compile(r"github\.com/[^/]+/where-bias-hides|colab\.research\.google\.com|mybinder\.org", re.I)
_ADDRESS = re.compile(r"https?://[^\s)>\]]+|\bdoi:?\s*10\.\d{4,}/\S+|\b10\.\d{4,}/\S+|\barXiv:?\s*\d{4}\.\d{4,5}", re.I)
_END = re.compile(r"(?<![\s.(]e\.g)(?<![\s.(]i\.e)(?<!et al)(?<!\bcf)(?<!\bvs)(?<!\bFig)(?<!\bEq)(?<!\bno)(?<!\bDr)"
                  r"[.!?][\"')\]]*\s+(?=[^a-z\s])")
_TWO_DIGITS = rf"(?:{'|'.join(TENS)})(?:[- ](?:{'|'.join(list(UNITS)[:9])}))?"
_WORD = rf"(?:{_TWO_DIGITS}|{'|'.join(UNITS)})"
_LARGE_WORD = rf"(?:{_TWO_DIGITS}|{'|'.join(list(UNITS)[10:])}|{'|'.join(LARGE)})"
_PERCENT = r"(?:\s?%|\s?per\s?cent\b|\s?percent\b)"
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_NUMERAL = re.compile(
    r"(?P<number>(?:\d{1,3}(?:[,\u202f\u00a0\u2009]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<power>[eE][-+\u2212]?\d+|(?:\s?[×·]\s?10)?(?:\^[-+\u2212]?\d+|[⁻⁺]?[⁰¹²³⁴-⁹]+))?"
    rf"(?P<percent>{_PERCENT})?|(?P<glyph>[\u00bc-\u00be\u2150-\u218b\u2460-\u24ff\u2776-\u2793]{_PERCENT}?)")
_WORDS = re.compile(rf"\b(?P<large>{_LARGE_WORD})\b(?P<percent>{_PERCENT})?|"
                    rf"\b(?P<small>{_WORD})(?P<percent2>{_PERCENT})", re.I)
_K_OF_N = re.compile(rf"\bin (?P<k>{_WORD}|\d+) (?:out )?of (?:the |all )?(?P<n>{_WORD}|\d+)\b", re.I)


@dataclass
class Block:
    """One paragraph, heading, cell of a table or formula as flat text, with its tags and citations by position."""

    line: int
    text: str = ""
    tags: dict[int, str] = field(default_factory=dict)
    citations: list[int] = field(default_factory=list)

    def sentence(self, position: int) -> tuple[int, int]:
        """Start and end of the sentence around a position."""
        start = 0
        for match in _END.finditer(self.text):
            if match.end() > position:
                return start, match.end()
            start = match.end()
        return start, len(self.text)


@dataclass(frozen=True)
class Numeral:
    """A number in a block: where it stands, what it says, and how exactly it says it."""

    start: int
    end: int
    text: str
    value: float | None
    unit: float  # of its last printed digit
    percent: bool = False

    def says(self, value: float, step: float | None = None) -> bool:
        """Whether the printed number is ``value`` rounded to the printed digits (or to ``step``)."""
        scale = 100 if self.percent else 1
        unit = step or self.unit
        return self.value is not None and abs(value * scale - self.value) <= unit / 2 * (1 + 1e-9) + 1e-12


def parser() -> MarkdownIt:
    """Markdown as the book reads it (see ``_config.yml``)."""
    markdown = MarkdownIt("commonmark").enable("table")
    for plugin in (amsmath_plugin, attrs_plugin, colon_fence_plugin, deflist_plugin, myst_block_plugin,
                   myst_role_plugin):
        markdown.use(plugin)
    return markdown.use(dollarmath_plugin, allow_space=True, allow_digits=True)


def blocks(markdown: str, line: int = 0) -> Iterator[Block]:
    """Blocks of prose of a Markdown text, in order; ``line`` is the number of lines before it."""
    numbered, row, cell = False, 0, 0
    for token in parser().parse(markdown):
        here = line + (token.map[0] if token.map else 0) + 1
        if token.type == "inline":
            for block in _inline(token, here):
                if cell == 1 and block.text == str(row):  # the number of a row of a table
                    block.text = HOLE
                if numbered:
                    block.text = re.sub(r"^\d+(?:\.\d+)*\.?(?=\s)", lambda match: HOLE * len(match[0]), block.text)
                yield block
        elif token.type in ("math_block", "math_block_label", "amsmath"):
            yield Block(here, formula(token.content))
        elif token.type == "html_block":
            yield from _html(token.content, here)
        elif token.type in ("colon_fence", "fence"):
            yield from _directive(token, here)
        numbered = token.type == "heading_open"
        row = 0 if token.type == "tbody_open" else row + (token.type == "tr_open")
        cell = 0 if token.type in ("tr_open", "table_close") else cell + (token.type in ("th_open", "td_open"))


def numerals(block: Block) -> list[Numeral]:
    """All numbers in a block, in order."""
    found = [_numeral(block.text, match) for match in _NUMERAL.finditer(block.text)]
    found = [numeral for numeral in found if numeral]
    for match in _WORDS.finditer(block.text):
        word = match["large"] or match["small"]
        found.append(Numeral(match.start(), match.end(), match[0], _spelled(word), 1.0,
                             bool(match["percent"] or match["percent2"])))
    for match in _K_OF_N.finditer(block.text):
        for part in ("k", "n"):
            if not match[part].isdigit():
                found.append(Numeral(*match.span(part), match[part], _spelled(match[part]), 1.0))
    return sorted({(n.start, n.end): n for n in found}.values(), key=lambda n: n.start)


def formula(text: str) -> str:
    """Turn a formula into text in which only the numbers that state something are left."""
    text = re.sub(r"\{,\}", ",", text).replace("\\%", "%").replace("\\,", "")
    text = re.sub(r"(\d)\s*\\(?:times|cdot)\s*10\^\{?([-+]?\d+)\}?", r"\1e\2", text)
    text = re.sub(r"(?<![\d.])10\^\{?([-+]?\d+)\}?", r"1e\1", text)
    text = re.sub(r"[_^](?:\{[-+]?\d{1,2}\}|\d)(?![.\d])", "", text)
    text = re.sub(r"\\(?:approx|sim|le|leq|ge|geq|lt|gt|ne|neq|in|to)(?![a-zA-Z])|[≈∼≤≥≠∈→]", " = ", text)
    text = re.sub(r"\\(?:left|right|tfrac|frac|dfrac|sqrt)(?![a-zA-Z])", "", text)
    text = re.sub(r"\\[a-zA-Z]+", f" {HOLE} ", re.sub(r"\\(?:pm|mp)(?![a-zA-Z])", "+", text))
    text = re.sub(r"[{}]", " ", text.replace("}{", "/"))
    text = re.sub(r"\s*([=<>])\s*([-+]?)\s*", r" \1\2", text)
    if not re.fullmatch(r"[\s+\-()]*\d[\s()]*", text):
        # An integer of one digit inside an expression: 1 + x, 2d, /2, N(0, but not what stands right of a relation.
        text = re.sub(r"(?<![\d.])(?<!\de)(?<!\de-)(?<![=<>])(?<![=<>][-+])\d(?!\d|[.,]\d|%|e-?\d)", HOLE, text)
    return text


# ---------------------------------------------------------------------- from tokens to blocks
def _inline(token, line) -> Iterator[Block]:
    block, spoken = Block(line), []
    for child in token.children:
        before = len(block.text)
        if child.type == "text":
            block.text += child.content
        elif child.type in ("softbreak", "hardbreak"):
            block.text += " "
        elif child.type == "code_inline":
            block.text += child.content if re.fullmatch(rf"[\s+\-\u2212\d.,]*\d{_PERCENT}?\s*", child.content) else HOLE
        elif child.type in ("math_inline", "math_inline_double"):
            block.text += formula(child.content)
        elif child.type == "image":
            block.text += HOLE
            spoken.append(child.content)
        elif child.type == "link_open":
            target = str(child.attrs.get("href", ""))
            if target.startswith(("http://", "https://")) and not _OWN_ADDRESS.search(target):
                block.citations.append(before)
        elif child.type == "myst_role":
            name = child.meta["name"]
            if name.startswith(CITING_ROLES):
                block.citations.append(before)
            silent = name.startswith(CITING_ROLES) or name in SILENT_ROLES
            block.text += HOLE if silent else formula(child.content) if name == "math" else child.content
        elif child.type == "html_inline":
            _html_part(child.content, block, spoken)
    yield _addresses(block)
    yield from (Block(line, text) for text in spoken if text)


def _html(content, line) -> Iterator[Block]:
    block, spoken, end = Block(line), [], 0
    for match in _COMMENT_OR_TAG.finditer(content):
        block.text += content[end:match.start()]
        _html_part(match[0], block, spoken)
        end = match.end()
    block.text += content[end:]
    yield _addresses(block)
    yield from (Block(line, text) for text in spoken)


def _html_part(html, block, spoken) -> None:
    """Take in a comment if it is a tag of ours, and of an element what is read aloud or cited."""
    if match := _TAG.fullmatch(html.strip()):
        block.tags[len(block.text)] = match["tag"]
    elif not html.startswith("<!--"):
        spoken += [a or b for a, b in _READ_ALOUD.findall(html)]
        link = re.search(r"""href\s*=\s*["'](https?://[^"']+)""", html)
        if link and not _OWN_ADDRESS.search(link[1]):
            block.citations.append(len(block.text))
        if re.match(r"<sup\b", html, re.I):
            block.text += "^"
        elif re.match(r"</?(?:p|div|li|td|th|br|summary)\b", html, re.I):
            block.text += " "


def _directive(token, line) -> Iterator[Block]:
    match = re.match(r"\{([\w:.-]+)\}\s*(.*)", token.info.strip())
    if match is None:  # a plain fence is code
        if token.type == "colon_fence":
            yield from blocks(token.content, line)
        return
    name, argument = match[1], match[2]
    if name in ("math",):
        yield Block(line, formula(token.content))
    if argument and name not in PATH_DIRECTIVES:
        yield from blocks(argument, line - 1)
    body = token.content.split("\n")
    while body and re.match(r":[\w-]+:", body[0]):
        option = re.match(r":(alt|caption|title):\s*(.*)", body.pop(0))
        if option:
            yield from blocks(option[2], line - 1)
        line += 1
    if name not in (*SILENT_DIRECTIVES, "math"):
        yield from blocks("\n".join(body), line)


def _addresses(block: Block) -> Block:
    """Blank out addresses, which are no prose, and note those that cite somebody."""
    def blank(match):
        if not _OWN_ADDRESS.search(match[0]):
            block.citations.append(match.start())
        return HOLE * len(match[0])

    block.text = _ADDRESS.sub(blank, block.text)
    return block


# ---------------------------------------------------------------------- from text to numbers
def _numeral(text: str, match: re.Match) -> Numeral | None:
    start, end = match.span()
    if match["glyph"]:
        return Numeral(start, end, match[0], None, 1.0)
    before = text[start - 1] if start else " "
    number = match["number"]
    if (before.isalpha() or before == "_") and not number.startswith("."):
        return None  # a name: MNI152, T1, d2
    digits = re.sub(r"[,\u202f\u00a0\u2009]", "", number)
    value, decimals = float(digits), len(digits.partition(".")[2])
    power = match["power"] or ""
    exponent = 0
    if power:
        shown = power.translate(_SUPER).replace("\u2212", "-")
        if shown[0] in "eE":
            exponent = int(shown[1:])
        elif "10" in shown and shown.lstrip()[0] in "×·":
            exponent = int(shown.partition("10")[2].lstrip("^"))
        elif value == 10:  # 10^6 as such
            value, exponent, decimals = 1.0, int(shown.lstrip("^")), 0
        else:
            return Numeral(start, end, match[0], value ** int(shown.lstrip("^")), 0.0)
    sign = -1 if before in "-\u2212" and not re.search(r"[\w)\].]$", text[: start - 1]) else 1
    return Numeral(start, end, ("-" if sign < 0 else "") + match[0], sign * value * 10.0**exponent,
                   10.0 ** (exponent - decimals), bool(match["percent"]))


def _spelled(word: str) -> float:
    """Value of a number word such as 'forty-two'."""
    parts = re.split(r"[- ]", word.lower())
    return float(sum({**UNITS, **TENS, **LARGE}[part] for part in parts))
