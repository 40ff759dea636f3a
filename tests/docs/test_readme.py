"""The README is short, and the commands and messages it shows are those of the program."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer

from boltseal.cli.command_group import CommandOnDemand
from boltseal.cli.root import build
from tests import servers
from tests.cli import program
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
            own = re.sub(r"'[^']*'", "", typed)  # what is quoted is for another program
            if options is None or not set(re.findall(r"--[a-z-]+", own)) <= options:
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


@pytest.mark.slow
def test_the_transcript_of_the_readme_is_what_the_commands_print(tmp_path: Path) -> None:
    """Each boltseal command of the transcript, except `deploy`, prints what the README shows, whole; `…` stands for a digest's rest."""
    project = tmp_path / "shop"
    project.mkdir()
    with servers.boltseal(tmp_path / "data") as server:
        host = server.address.replace("127.0.0.1", "localhost")
        asyncio.run(pushed_to(server.url))
        (project / "compose.yaml").write_text(
            f"services:\n  app:\n    image: {host}/shop/app:1.4.2\n", encoding="utf-8"
        )
        shown, printed = list(transcript()), []
        for typed, _ in shown:
            run = program.run(*typed.split()[1:], cwd=project)
            printed.append(plain(f"{run.out}{run.err}".replace(host, "localhost:5000")))

    assert [typed.split()[1] for typed, _ in shown] == ["lock", "pin", "verify"]
    assert printed == [plain(output) for _, output in shown]


def transcript() -> Iterator[tuple[str, str]]:
    """Yield each boltseal command of the first block of the README, without its comment, and what is shown below it."""
    (block,) = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for each in re.split(r"^\$ ", block, flags=re.MULTILINE):
        typed, _, output = each.partition("\n")
        if typed.startswith("boltseal ") and not typed.startswith("boltseal deploy"):
            yield typed.partition("#")[0], output


def plain(output: str) -> str:
    """Return an output with one digest for all, and without what a terminal does to columns."""
    return re.sub(r"sha256:[0-9a-f]+…?", "DIGEST", re.sub(r" +", " ", output)).strip()


async def pushed_to(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        await push(client, "shop/app", "1.4.2", image("first"))


def test_the_readme_is_short() -> None:
    """The README's length and lines are limited, so that it fits a terminal and five minutes."""
    tables = [line for line in README.splitlines() if line.startswith("|")]

    assert len(README.splitlines()) <= 130
    assert len(README.split()) <= 1_300
    assert [line for line in tables if len(line) > 100] == []
