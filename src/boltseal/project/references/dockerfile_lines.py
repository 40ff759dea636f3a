"""Split a Dockerfile into instructions as BuildKit does, and keep the file offset of every character. Pure.

    directives     `# syntax=`, `# escape=`, `# check=`, only before anything else
    lines          joined where one ends in the escape character; comments and empty lines between them are dropped
    flags          words that begin with `--`, directly after the instruction's name
    heredocs       of ADD, COPY, RUN, and of these after ONBUILD; their bodies are not part of the instruction's text

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
    """A part of a logical line: its characters and their file offsets."""

    text: str
    at: tuple[int, ...]

    def part(self, start: int, end: int) -> Text:
        """Return the characters from `start` to `end`."""
        return Text(self.text[start:end], self.at[start:end])

    def words(self) -> list[Text]:
        """Return the words that white space separates."""
        return [self.part(match.start(), match.end()) for match in re.finditer(r"\S+", self.text)]

    @property
    def start(self) -> int:
        """File offset of the first character."""
        return self.at[0]

    @property
    def end(self) -> int:
        """File offset after the last character."""
        return self.at[-1] + 1


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its lower-case name, its flags, and the text after them. `line` counts from 1."""

    name: str
    line: int
    flags: tuple[Text, ...]
    rest: Text
    bodies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DockerfileLines:
    """A whole file. `directives`: values by lower-case name. `escape`: the escape character."""

    directives: dict[str, Text]
    escape: str
    instructions: tuple[Instruction, ...]


def read_lines(source: SourceFile) -> DockerfileLines:
    """Split a file into instructions. Raises: Unreadable: BuildKit could not parse it either."""
    return source.parsed(_parse)


def _parse(source: SourceFile) -> DockerfileLines:
    return _Reader(source).read()


class _Reader:
    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.lines = _split_lines(source.text)
        self.next = 0
        self.escape = "\\"
        self.directives: dict[str, Text] = {}

    def read(self) -> DockerfileLines:
        self.read_directives()
        continued = re.compile(rf"(?:(?<=[^{re.escape(self.escape)}])|^){re.escape(self.escape)}[ \t]*$")
        found: list[Instruction] = []
        while self.next < len(self.lines):
            first = self.next
            logical_line, complete = self.logical_line(continued)
            if not logical_line.text and complete:
                continue
            if logical_line.text:
                found.append(self.instruction(logical_line, first + 1))
            if len(found) > MAX_INSTRUCTIONS:
                raise Unreadable(self.source.path, first + 1, f"has more than {MAX_INSTRUCTIONS} instructions")
        return DockerfileLines(self.directives, self.escape, tuple(found))

    def read_directives(self) -> None:
        for number, line in enumerate(self.lines):
            text = line.text.rstrip("\r\n")
            if number == 0 and text.startswith("#!"):
                continue  # after `#!` BuildKit looks only for a syntax directive
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

    def logical_line(self, continued: re.Pattern[str]) -> tuple[Text, bool]:
        """Return the next instruction's text, and whether it was complete when the file ended."""
        line = _trimmed(self.next_line())
        if line.text.startswith("#"):
            line = Text("", ())
        text, ended = _continued(line, continued)
        parts = [text]
        while not ended and self.next < len(self.lines):
            line = _without_end(self.next_line())
            bare = line.text.strip(_SPACE)
            if not bare or bare.startswith("#"):
                continue
            text, ended = _continued(line, continued)
            parts.append(text)
        joined = Text("".join(part.text for part in parts), tuple(at for part in parts for at in part.at))
        return _trimmed(joined), ended

    def next_line(self) -> Text:
        self.next += 1
        return self.lines[self.next - 1]

    def instruction(self, logical_line: Text, line: int) -> Instruction:
        match = re.match(r"\S+", logical_line.text)
        name = match[0] if match else ""
        flags, rest = self.flags(_trimmed(logical_line.part(len(name), len(logical_line.text))))
        bodies: tuple[str, ...] = ()
        inner = name.lower()
        if inner == "onbuild" and rest.text:
            inner = rest.words()[0].text.lower()
        if inner in _WITH_HEREDOCS and "<<" in logical_line.text and not rest.text.startswith("["):
            bodies = tuple(self.body(*heredoc, line) for heredoc in _heredocs(logical_line.text, self.escape))
        return Instruction(name.lower(), line, flags, rest, bodies)

    def flags(self, rest: Text) -> tuple[tuple[Text, ...], Text]:
        """Return the words that begin with `--`, quotes and escapes unchanged, and the text after them."""
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
        """Read the lines of a heredoc and the line that ends it."""
        kept: list[str] = []
        while self.next < len(self.lines):
            text = self.next_line().text
            bare = text.rstrip("\r\n")
            if (bare.lstrip("\t") if chomp else bare) == name:
                return "".join(kept)
            kept.append(text)
        raise Unreadable(self.source.path, line, f"has a heredoc without its end line {name!a}")


def _split_lines(text: str) -> list[Text]:
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
    """Return name and tab-stripping flag of each heredoc that a line begins."""
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
        return []  # a line with an unclosed quote begins no heredoc
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
