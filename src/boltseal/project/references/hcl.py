"""Read the attributes of HCL (Nomad jobs, bake files) with the positions of their texts. Pure.

Only what names images is parsed: blocks, attributes, objects, lists, quoted texts with templates, heredocs and comments.
Expressions are skipped, except for a variable alone (`image = var.image`). The text is untrusted: scanning takes linear
time and does not recurse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.project.image_references import Span
from boltseal.project.source_files import SourceFile, Unreadable

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*|//[^\n]*|/\*.*?(?:\*/|\Z))"""
    r"""|(?P<heredoc><<-?[ \t]*(?P<mark>[A-Za-z_][\w-]*)[ \t\r]*\n)"""
    r"""|(?P<text>")"""
    r"""|(?P<name>[A-Za-z_][\w.-]*|\[\[[- ](?:[^\]\n]|\](?!\])){0,200}\]\])"""  # the latter: an expression of a template
    r"""|(?P<sign>.|\n)""",
    re.DOTALL,
)
_VARIABLE: Final = re.compile(r"\$\{\s*(?:var\.|local\.)?(?P<name>[A-Za-z_]\w*)\s*\}")
MAX_BYTES: Final = 1024 * 1024
MAX_NESTING: Final = 100
_OPEN: Final = {"{": "}", "[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class HclText:
    """A text of an attribute.

    `path`: the blocks and objects that contain it, each as its words joined by blanks. `key`: the attribute; of a list
    in an attribute, its key. `span`: the content between the quotes. `bare`: it is a variable's name without quotes.
    """

    path: tuple[str, ...]
    key: str
    span: Span
    value: str
    bare: bool = False


def read_hcl(source: SourceFile) -> Iterator[HclText]:
    """Return the texts of a file's attributes in order. Raises: Unreadable: it is too large, or nested too deeply."""
    if len(source.raw) > MAX_BYTES:
        raise Unreadable(source.path, 0, f"is not read as HCL: {len(source.raw)} bytes, at most 1 MiB")
    return _Reader(source).read()


class _Reader:
    """Reads token by token. `stack`: the closing sign and the name of each open block, object or list.

    `words`: those of the line so far. `key`: the attribute whose value is read.
    """

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.text = source.text
        self.stack: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.key: str | None = None

    def read(self) -> Iterator[HclText]:
        at = 0
        while (match := _TOKEN.match(self.text, at)) is not None:
            at = match.end()
            if match["heredoc"]:
                mark = re.compile(rf"^[ \t]*{re.escape(match['mark'])}[ \t\r]*$", re.MULTILINE).search(self.text, at)
                span = Span(at, len(self.text) if mark is None else mark.start())
                at = len(self.text) if mark is None else mark.end()
                yield from self.value(span)
                self.ends()
            elif match["text"]:
                span = Span(at, _end_of_text(self.text, at))
                at = span.end + 1
                yield from self.value(span)
            elif match["name"]:
                bare = self.text[at : at + 1] != "("  # otherwise a function, whose arguments are read
                yield from self.value(Span(*match.span()), bare=True) if bare else ()
            elif match["sign"]:
                self.sign(match["sign"])

    def value(self, span: Span, *, bare: bool = False) -> Iterator[HclText]:
        text = self.text[span.start : span.end]
        if self.key is None:
            self.words.append(text)
        else:
            yield HclText(tuple(name for _, name in self.stack if name), self.key, span, text, bare)

    def sign(self, sign: str) -> None:
        in_list = bool(self.stack) and self.stack[-1][0] == "]"
        if sign in "=:" and self.words:
            self.key, self.words = self.words[-1], []
        elif sign in _OPEN:
            listed = sign != "{" and self.key is not None
            name = self.key if self.key is not None else " ".join(self.words)
            self.stack.append((_OPEN[sign], "" if listed else name))
            if len(self.stack) > MAX_NESTING:
                raise Unreadable(self.source.path, 0, f"is not read as HCL: it nests more than {MAX_NESTING} deep")
            self.key, self.words = (self.key if listed else None), []
        elif self.stack and sign == self.stack[-1][0]:
            self.stack.pop()
            self.ends()
        elif sign in "\n," and not in_list:
            self.ends()

    def ends(self) -> None:
        self.key, self.words = None, []


def _end_of_text(text: str, start: int) -> int:
    """Return the offset of the quote that closes a text, after its templates (`${...}`), which may contain texts."""
    depth, at, inner = 0, start, False
    while at < len(text):
        char = text[at]
        if char == "\\" and (depth == 0 or inner):
            at += 1
        elif inner or (depth and char == '"'):
            inner = (not inner) if char == '"' else inner
        elif depth:
            depth += (char == "{") - (char == "}")
        elif (
            depth == 0
            and char == "["
            and text[at : at + 3] in ("[[ ", "[[-")
            and (end := text.find("]]", at, at + 500)) > 0
        ):
            at = end + 1
        elif char in "$%" and text[at + 1 : at + 2] == "{" and text[at + 2 : at + 3] != "":
            depth, at = 1, at + 1
        elif char in '"\n':
            return at
        at += 1
    return len(text)


def variable_defaults(texts: list[HclText]) -> Mapping[str, str]:
    """Return the defaults of variables (`variable "TAG" { default = "1" }`) and the texts of `locals`, by name."""
    found: dict[str, str] = {}
    for each in texts:
        block = each.path[-1] if each.path else ""
        if each.bare or len(each.path) != 1:
            continue
        if block.startswith("variable ") and each.key == "default":
            found[block.removeprefix("variable ").strip()] = each.value
        elif block == "locals":
            found[each.key] = each.value
    return found


def filled_in(each: HclText, defaults: Mapping[str, str]) -> str | None:
    """Return a text with its variables replaced by their defaults; None if it has others, or expressions."""
    text = f"${{{each.value}}}" if each.bare else each.value
    for _ in range(5):
        names = [match["name"] for match in _VARIABLE.finditer(text)]
        if not names:
            return None if re.search(r"[$%]\{|\[\[|\\", text) else text
        if not all(name in defaults for name in names) or len(text) > 1000:
            return None
        text = _VARIABLE.sub(lambda match: defaults[match["name"]], text)
    return None
