"""boltseal's Dockerfile parser compared with BuildKit's, as the package `dockerfile` wraps it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.project.references.dockerfile_lines import read_lines
from boltseal.project.source_files import SourceFile, Unreadable
from tests.project.projects import DATA

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the wrapper is built for this platform alone"
)

NAMES = ("add", "arg", "copy", "env", "from", "run")
TOKENS = (
    *(
        "FROM a",
        "FROM --platform=x b AS c",
        "RUN ",
        "COPY --from=a b c",
        "ADD <<E /x",
        "ENV a=b",
        "ARG A=b",
        'CMD ["a"]',
    ),
    *("RUN --mount=type=bind,from=x --network=none ls", "<<EOF", "<<-EOF", "<<'EOF'", "EOF", "\tEOF", "E\n", "echo $A"),
    *("# x", "# escape=`\n", "# syntax=a/b\n", "# unknown=1\n", "#syntax=x", "#", "\\", "`", "\n", "\n\n", " ", "\t"),
    *("\r\n", "\\\n", "`\n", " \\ \n", '"', "'", "x"),
)
files = st.lists(st.sampled_from(TOKENS), max_size=20).map("".join)


def parsed_by_boltseal(text: str) -> list[tuple[str, int, tuple[str, ...], tuple[str, ...]]] | None:
    """Return name, line, flags without quotes and escapes, and heredocs of each instruction; None if unreadable."""
    try:
        lines = read_lines(SourceFile.of("Dockerfile", text.encode()))
    except Unreadable:
        return None
    return [
        (found.name, found.line, tuple(bare(flag.text) for flag in found.flags), found.bodies)
        for found in lines.instructions
        if found.name in NAMES
    ]


def parsed_by_buildkit(text: str) -> list[tuple[str, int, tuple[str, ...], tuple[str, ...]]] | None:
    """Return the instructions as BuildKit parses them."""
    import dockerfile

    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError:
        return None
    return [
        (
            found.cmd.lower(),
            found.start_line,
            tuple(map(bare, found.flags)),
            tuple(doc.content for doc in found.heredocs),
        )
        for found in commands
        if (found.cmd or "").lower() in NAMES
    ]


def bare(flag: str) -> str:
    """Return a flag without the characters that BuildKit removes and boltseal keeps."""
    return "".join(char for char in flag if char not in "'\"\\`")


@given(text=files)
def test_instructions_are_split_as_by_buildkit(text: str) -> None:
    """Instructions, lines, flags and heredocs equal those of BuildKit for all input that BuildKit parses."""
    read = parsed_by_buildkit(text)

    assert read is None or "--'" in text or parsed_by_boltseal(text) == read


@pytest.mark.parametrize("path", sorted(DATA.glob("dockerfile_*/*ockerfile*")), ids=lambda path: path.name)
def test_buildkit_accepts_the_trap_files(path: Path) -> None:
    """BuildKit parses each trap file, since a file that it refuses would prove nothing."""
    text = path.read_text(encoding="utf-8-sig")

    assert parsed_by_buildkit(text) is not None or path.name.endswith(".dockerignore")
    assert parsed_by_buildkit(text) == parsed_by_boltseal(text) or path.name.endswith(".dockerignore")
