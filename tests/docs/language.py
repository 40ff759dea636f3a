"""Find retired words in the source, the tests, the benchmarks and the pages; `python -m tests.docs.language` prints every finding.

The words, their contexts and the allowed phrases are in retired_words.toml. Text between single backquotes is code and is
not searched. Of a module of tests, bench or scripts its names, docstrings and comments are searched; its other strings are
data, such as SQL, hostile input and expected output, which is searched where the program has it.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import PAGES, ROOT

WORDS_FILE = Path(__file__).parent / "retired_words.toml"
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"
DEVELOPMENT = (TESTS, ROOT / "bench", ROOT / "scripts")
TEXT = ("docstrings", "comments", "help", "messages", "pages")
CONTEXTS = ("modules", "names", "identifiers", *TEXT)
HELP_ARGUMENTS = ("help", "short_help", "epilog", "metavar")
PAGES_UNIT = "pages"
DEVELOPMENT_CONTEXTS = ("modules", "names", "identifiers", "docstrings", "comments")
SQL = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|WITH|FROM|WHERE|AND|ON|ORDER BY|JOIN)\b")

# Records of decisions are not edited after they are accepted, and the changelog is history.
UNEDITED = re.compile(r"docs/adr/00(?:0\d|1\d|2[0-8])-|CHANGELOG\.md$")


@dataclass(frozen=True)
class RetiredWord:
    """A pattern, what to write instead, and the contexts in which it is retired."""

    pattern: str
    write: str
    contexts: tuple[str, ...]


@dataclass(frozen=True)
class WordList:
    """The content of retired_words.toml."""

    words: tuple[RetiredWord, ...]
    allowed: tuple[str, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True)
class Excerpt:
    """A name or a text that is searched. `unit`: the package that has it, as in the list of pending packages."""

    unit: str
    path: Path
    line: int
    context: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A retired word at one place."""

    excerpt: Excerpt
    line: int
    word: str
    write: str

    def __str__(self) -> str:
        return f"{self.excerpt.path.relative_to(ROOT)}:{self.line}: {self.word!r} in {self.excerpt.context}; write: {self.write}"


@functools.cache
def word_list() -> WordList:
    """Return the parsed list. An unknown key or context is an error."""
    document = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
    words = []
    for each in document["word"]:
        contexts = tuple(part for name in each["contexts"] for part in (TEXT if name == "text" else (name,)))
        assert set(each) == {"pattern", "write", "contexts"}, each
        assert set(contexts) <= set(CONTEXTS), each
        words.append(RetiredWord(each["pattern"], each["write"], contexts))
    for each in document.get("allowed", ()):
        assert set(each) == {"pattern", "reason"}, each
        assert each["reason"], each
    allowed = tuple(each["pattern"] for each in document.get("allowed", ()))
    return WordList(tuple(words), allowed, tuple(document["pending"]["packages"]))


@functools.cache
def _patterns(context: str) -> tuple[re.Pattern[str], tuple[tuple[re.Pattern[str], str], ...]]:
    """Return one pattern that matches any word of a context, and each pattern with what to write instead."""
    words = [word for word in word_list().words if context in word.contexts]

    def compiled(pattern: str) -> re.Pattern[str]:
        return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])".replace(" ", r"\s+"), re.IGNORECASE)

    return compiled("|".join(word.pattern for word in words)), tuple((compiled(w.pattern), w.write) for w in words)


@functools.cache
def allowed_pattern(pattern: str = "") -> re.Pattern[str]:
    """Return the pattern of one allowed phrase, or of all."""
    return re.compile((pattern or "|".join(word_list().allowed) or "(?!)").replace(" ", r"\s+"), re.IGNORECASE)


def unit_of(module: Path) -> str:
    """Return what a module is counted with: `boltseal.client`, `boltseal.server.api`, `boltseal.events`, or `tests`."""
    if not module.is_relative_to(SOURCE):
        return module.relative_to(ROOT).parts[0]
    parts = module.relative_to(SOURCE).with_suffix("").parts
    depth = 3 if parts[1] == "server" else 2
    return ".".join(part for part in parts[:depth] if part != "__init__")


def excerpts_of_module(unit: str, path: Path, source: str) -> Iterator[Excerpt]:
    """Yield the names, docstrings, comments, help texts and other texts of a module."""
    yield Excerpt(unit, path, 1, "modules", path.stem)
    yield Excerpt(unit, path, 1, "names", path.stem)
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        for name in names_of(node):
            yield Excerpt(unit, path, getattr(node, "lineno", 1), "names", name)
            yield Excerpt(unit, path, getattr(node, "lineno", 1), "identifiers", name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Excerpt(unit, path, node.lineno, "names", node.id)
    yield from (Excerpt(unit, path, line, context, text) for line, context, text in texts_of(nodes))
    yield from (Excerpt(unit, path, line, "comments", text) for line, text in comments_of(source))


def texts_of(nodes: list[ast.AST]) -> Iterator[tuple[int, str, str]]:
    """Yield line, context and text of each string with prose. SQL is left out, since it has the names of tables on
    disk."""
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    help_texts = {
        id(part)
        for node in nodes
        if isinstance(node, ast.keyword) and node.arg in HELP_ARGUMENTS
        for part in ast.walk(node.value)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings:
                yield node.lineno, "docstrings", node.value
            elif " " in node.value.strip() and not SQL.match(node.value):
                yield node.lineno, "help" if id(node) in help_texts else "messages", node.value


def names_of(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node gives to a class, a function, a parameter, or a field or constant."""
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name
        case ast.arg():
            yield node.arg
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Module(body=body):
            for statement in body:
                if isinstance(statement, ast.Assign):
                    yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
        case _:
            pass


def comments_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield each comment with its line."""
    if "#" not in source:
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def excerpt_of_page(path: Path, content: str) -> Excerpt:
    """Return the text of a page, without inline code, link targets, and code blocks except for their comments.

    Output of boltseal in a code block is searched where the program has it.
    """

    def comments_only(block: re.Match[str]) -> str:
        lines = block[0].splitlines()
        return "\n".join("".join(re.findall(r"(?:^|\s)# .*", line)) for line in lines)

    content = re.sub(r"^```.*?^```$", comments_only, content, flags=re.MULTILINE | re.DOTALL)
    content = re.sub(r"(?<!`)`[^`\n]+`(?!`)|\]\([^)\s]+\)", "`", content)
    return Excerpt(PAGES_UNIT, path, 1, "pages", content)


@functools.cache
def excerpts() -> tuple[Excerpt, ...]:
    """Return everything that is searched in the repository."""
    modules = sorted(path for path in SOURCE.rglob("*.py") if "versions" not in path.parts)
    development = sorted(
        path for folder in DEVELOPMENT for path in folder.rglob("*.py") if "data" not in path.relative_to(folder).parts
    )
    pages = [path for path in PAGES if not UNEDITED.search(path.relative_to(ROOT).as_posix())]
    packaging = [path for path in ROOT.glob("packaging/**/*") if path.is_file()]
    pages += sorted([*ROOT.glob("examples/*.toml"), *ROOT.glob("templates/*"), *packaging])
    return (
        *(excerpt for path in modules for excerpt in _excerpts_at(path)),
        *(excerpt for path in development for excerpt in _excerpts_at(path) if excerpt.context in DEVELOPMENT_CONTEXTS),
        *(excerpt_of_page(path, path.read_text(encoding="utf-8")) for path in pages),
    )


def _excerpts_at(module: Path) -> Iterator[Excerpt]:
    return excerpts_of_module(unit_of(module), module, module.read_text(encoding="utf-8"))


def split_name(name: str) -> list[str]:
    """Return the words of an identifier."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def findings_in(excerpt: Excerpt) -> Iterator[Finding]:
    """Yield each retired word of an excerpt, once for each place."""
    any_word, each_word = _patterns(excerpt.context)
    if excerpt.context in ("modules", "names", "identifiers"):
        for word in split_name(excerpt.text) if excerpt.context == "names" else [excerpt.text]:
            if any_word.fullmatch(word):
                write = next(write for pattern, write in each_word if pattern.fullmatch(word))
                yield Finding(excerpt, excerpt.line, excerpt.text, write)
        return
    text = excerpt.text if excerpt.context == "pages" else re.sub(r"`[^`\n]+`", "`", excerpt.text)
    if not any_word.search(text):
        return
    text = allowed_pattern().sub(lambda match: "." * len(match[0]), text)
    for pattern, write in each_word:
        for match in pattern.finditer(text):
            line = excerpt.line + text.count("\n", 0, match.start())
            yield Finding(excerpt, line, match[0], write)


@functools.cache
def findings() -> tuple[Finding, ...]:
    """Return every retired word of the repository, pending packages included."""
    return tuple(finding for excerpt in excerpts() for finding in findings_in(excerpt))


def main() -> None:
    """Print every finding, and how many each package has."""
    counts: dict[str, int] = {}
    for finding in findings():
        counts[finding.excerpt.unit] = counts.get(finding.excerpt.unit, 0) + 1
        sys.stdout.write(f"{finding}\n")
    for unit, count in sorted(counts.items()):
        sys.stdout.write(f"{count:5} {unit}\n")


if __name__ == "__main__":
    main()
