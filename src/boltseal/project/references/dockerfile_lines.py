"""A Dockerfile as BuildKit cuts it into instructions, every character with its place in the text. Pure.

    directives     `# syntax=`, `# escape=`, `# check=`, only before anything else
    lines          joined where a line ends in the escape character; comments and empty lines in between are dropped
    flags          words that begin with `--`, right behind the instruction's name
    heredocs       of ADD, COPY, RUN and what ONBUILD holds of them: their bodies belong to no instruction

`tests/project` compares the result with BuildKit's own parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from boltseal.project.source_files import SourceFile, Unreadable

_DIRECTIVE: Final = re.compile(r"#[ \t\n\f\r]*([a-zA-Z][a-zA-Z0-9]*)[ \t\n\f\r]*=[ \t\n\f\r]*(.+?)[ \t\n\f\r]*")
_KNOWN: Final = frozenset({"syntax", "escape", "check"})
_SPACE: Final = " \t\v\f\r\n"
_WITH_HEREDOCS: Final = frozenset({"add", "copy", "run"})
_HEREDOC: Final = re.compile(r"([0-9]*)<<(-?)([^<]*)", re.DOTALL)
MAX_INSTRUCTIONS: Final = 20_000
MAX_DIRECTIVE: Final = 4096


@dataclass(frozen=True, slots=True)
class Text:
    """A part of a logical line: its characters, and where each stands in the file."""

    text: str
    at: tuple[int, ...]

    def part(self, start: int, end: int) -> Text:
        """The characters from `start` to `end`."""
        return Text(self.text[start:end], self.at[start:end])

    def words(self) -> list[Text]:
        """What stands between white space."""
        return [self.part(match.start(), match.end()) for match in re.finditer(r"\S+", self.text)]

    @property
    def start(self) -> int:
        """Where the first character stands."""
        return self.at[0]

    @property
    def end(self) -> int:
        """Where the last character ends."""
        return self.at[-1] + 1


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in lower case, its flags, and everything behind them. `line` counts from 1."""

    name: str
    line: int
    flags: tuple[Text, ...]
    rest: Text
    bodies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DockerfileLines:
    """A whole file. `directives` are values by lower-case name; `escape` is the escape character."""

    directives: dict[str, Text]
    escape: str
    instructions: tuple[Instruction, ...]


def read_lines(source: SourceFile) -> DockerfileLines:
    """Cut a file into instructions. Unreadable where BuildKit would not read it either."""
    return source.parsed(_cut)


def _cut(source: SourceFile) -> DockerfileLines:
    return _Reader(source).read()


class _Reader:
    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.lines = _physical(source.text)
        self.next = 0
        self.escape = "\\"
        self.directives: dict[str, Text] = {}

    def read(self) -> DockerfileLines:
        self.read_directives()
        continued = re.compile(rf"(?:(?<=[^{re.escape(self.escape)}])|^){re.escape(self.escape)}[ \t]*$")
        found: list[Instruction] = []
        while self.next < len(self.lines):
            begins = self.next
            logical, whole = self.logical(continued)
            if not logical.text and whole:
                continue
            if logical.text:
                found.append(self.instruction(logical, begins + 1))
            if len(found) > MAX_INSTRUCTIONS:
                raise Unreadable(self.source.path, begins + 1, f"has more than {MAX_INSTRUCTIONS} instructions")
        return DockerfileLines(self.directives, self.escape, tuple(found))

    def read_directives(self) -> None:
        for number, line in enumerate(self.lines):
            text = line.text.rstrip("\r\n")
            if number == 0 and text.startswith("#!"):
                continue  # BuildKit looks for a syntax behind it, and for nothing else
            match = _DIRECTIVE.fullmatch(text.strip(_SPACE)) if len(text) <= MAX_DIRECTIVE else None
            name = "" if match is None else match[1].lower()
            if match is None or name not in _KNOWN:
                return
            if name in self.directives:
                raise Unreadable(self.source.path, number + 1, f"gives the directive {name} twice")
            lead = len(text) - len(text.lstrip(_SPACE))
            self.directives[name] = line.part(lead + match.start(2), lead + match.end(2))
            if name == "escape" and not self.lines[0].text.startswith("#!"):
                if match[2] not in ("\\", "`"):
                    raise Unreadable(self.source.path, number + 1, "has an escape directive that is neither \\ nor `")
                self.escape = match[2]

    def logical(self, continued: re.Pattern[str]) -> tuple[Text, bool]:
        """The next instruction's text, and whether it was ended rather than cut off by the end of the file."""
        line = _trimmed(self.take())
        if line.text.startswith("#"):
            line = Text("", ())
        text, ended = _continued(line, continued)
        parts = [text]
        while not ended and self.next < len(self.lines):
            line = _without_end(self.take())
            bare = line.text.strip(_SPACE)
            if not bare or bare.startswith("#"):
                continue
            text, ended = _continued(line, continued)
            parts.append(text)
        joined = Text("".join(part.text for part in parts), tuple(at for part in parts for at in part.at))
        return _trimmed(joined), ended

    def take(self) -> Text:
        self.next += 1
        return self.lines[self.next - 1]

    def instruction(self, logical: Text, line: int) -> Instruction:
        match = re.match(r"\S+", logical.text)
        name = match[0] if match else ""
        flags, rest = self.flags(_trimmed(logical.part(len(name), len(logical.text))))
        bodies: tuple[str, ...] = ()
        inner = name.lower()
        if inner == "onbuild" and rest.text:
            inner = rest.words()[0].text.lower()
        if inner in _WITH_HEREDOCS and "<<" in logical.text and not rest.text.startswith("["):
            bodies = tuple(self.body(*heredoc, line) for heredoc in _heredocs(logical.text, self.escape))
        return Instruction(name.lower(), line, flags, rest, bodies)

    def flags(self, rest: Text) -> tuple[tuple[Text, ...], Text]:
        """The words that begin with `--`, their quotes and escapes taken as they stand, and what comes behind them."""
        found: list[Text] = []
        at = 0
        text = rest.text
        while text.startswith("--", at):
            end, quoted = at, ""
            while end < len(text) and (quoted or text[end] not in _SPACE):
                if text[end] == self.escape and end + 1 < len(text):
                    end += 1
                elif quoted:
                    quoted = "" if text[end] == quoted else quoted
                elif text[end] in "'\"":
                    quoted = text[end]
                end += 1
            word = rest.part(at, end)
            at = end
            while at < len(text) and text[at] in _SPACE:
                at += 1
            if word.text == "--":
                break
            found.append(word)
        return tuple(found), rest.part(at, len(text))

    def body(self, name: str, chomp: bool, line: int) -> str:
        """Takes the lines of a heredoc, and the one that ends it."""
        kept: list[str] = []
        while self.next < len(self.lines):
            text = self.take().text
            bare = text.rstrip("\r\n")
            if (bare.lstrip("\t") if chomp else bare) == name:
                return "".join(kept)
            kept.append(text)
        raise Unreadable(self.source.path, line, f"has a heredoc that no line {name!a} ends")


def _physical(text: str) -> list[Text]:
    lines: list[Text] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        lines.append(Text(text[start:end], tuple(range(start, end))))
        start = end
    return lines


def _without_end(line: Text) -> Text:
    return line.part(0, len(line.text.rstrip("\r\n")))


def _trimmed(line: Text) -> Text:
    bare = line.text.strip(_SPACE)
    lead = len(line.text) - len(line.text.lstrip(_SPACE))
    return line.part(lead, lead + len(bare))


def _continued(line: Text, continued: re.Pattern[str]) -> tuple[Text, bool]:
    match = continued.search(line.text)
    return (line, True) if match is None else (line.part(0, match.start()), False)


def _heredocs(line: str, escape: str) -> list[tuple[str, bool]]:
    """Name and whether tabs are dropped, of each heredoc that a line begins."""
    found: list[tuple[str, bool]] = []
    for word in _shell_words(line, escape):
        match = _HEREDOC.fullmatch(word)
        if match is None:
            continue
        name = _unquoted(match[3], escape)
        if name:
            found.append((name, bool(match[2])))
    return found


def _shell_words(line: str, escape: str) -> list[str]:
    words, word, quoted, at = [], "", "", 0
    while at < len(line):
        char = line[at]
        if char == escape and quoted != "'" and at + 1 < len(line):
            word += line[at : at + 2]
            at += 2
            continue
        if quoted:
            quoted = "" if char == quoted else quoted
            word += char
        elif char in _SPACE:
            if word:
                words.append(word)
            word = ""
        else:
            quoted = char if char in "'\"" else ""
            word += char
        at += 1
    if quoted:
        return []  # a line with an open quote begins no heredoc
    return [*words, word] if word else words


def _unquoted(word: str, escape: str) -> str:
    out, quoted, at = "", "", 0
    while at < len(word):
        char = word[at]
        if char == escape and quoted != "'" and at + 1 < len(word):
            out += word[at + 1]
            at += 2
            continue
        if quoted and char == quoted:
            quoted = ""
        elif not quoted and char in "'\"":
            quoted = char
        else:
            out += char
        at += 1
    return out
