"""The README is short, and the commands and messages it shows are those of the program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import typer

from boltseal.cli.command_group import CommandOnDemand
from boltseal.cli.root import build
from tests.docs.pages import PAGES, code, text, typed_lines
from tests.images import error_of, image, push

README = text("README.md")


def commands() -> dict[str, set[str]]:
    """Return every command that help lists, subcommands included, with its options."""

    def below(command: Any, at: str) -> Iterator[tuple[str, set[str]]]:
        if isinstance(command, CommandOnDemand):
            command = command.loaded()
        if command.hidden:
            return
        if at:
            yield at, {option for parameter in command.params for option in parameter.opts}
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, f"{at} {name}".strip())

    return dict(below(typer.main.get_command(build()), ""))


@pytest.mark.slow
def test_every_command_in_the_pages_exists() -> None:
    """Each `boltseal COMMAND --option` in a page is a command with that option."""
    wrong, known = [], commands()
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for typed in [*code(content), *typed_lines(content)]:
            found = re.match(r"boltseal ([a-z][a-z-]*)( [a-z]+)?( [a-z]+)?\b", typed)
            if found is None:
                continue
            words = [word.strip() for word in found.groups("") if word]
            named = [" ".join(words[:length]) for length in range(len(words), 0, -1)]
            options = next((known[name] for name in named if name in known), None)
            if options is None or not set(re.findall(r"--[a-z-]+", typed)) <= options:
                wrong.append((page.name, typed))

    assert wrong == []


async def test_the_refusal_in_the_readme_is_the_servers(client: httpx2.AsyncClient) -> None:
    """The refusal in the README equals the server's, except for digests and date."""
    (documented,) = re.findall(r"^denied: (.+)$", README, re.MULTILINE)

    await push(client, "shop/app", "1.4.2", image("first"))
    code, message = error_of(await push(client, "shop/app", "1.4.2", image("second")))

    def blurred(text: str) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d", "DAY", re.sub(r"sha256:[0-9a-f]{12}\b", "DIGEST", text))

    assert code == "DENIED"
    assert blurred(message) == blurred(documented)


def test_the_readme_is_short() -> None:
    """The README's length and lines are limited, so that it fits a terminal and five minutes."""
    tables = [line for line in README.splitlines() if line.startswith("|")]

    assert len(README.splitlines()) <= 130
    assert len(README.split()) <= 1_300
    assert [line for line in tables if len(line) > 100] == []
