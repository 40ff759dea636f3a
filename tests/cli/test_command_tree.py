"""The command tree: sections and completeness of help, `boltseal help`, completion, and unknown words."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from boltseal.cli.command_group import CommandOnDemand
from boltseal.cli.command_rows import Command, Group
from boltseal.cli.command_search import NEVER_SUGGESTED, NOTES, SUGGESTIONS
from boltseal.cli.command_table import SECTIONS, commands
from boltseal.cli.root import build, load
from tests.cli import program
from tests.docs.pages import PAGES

ROOT: Final = Path(__file__).parents[2]
COMMANDS: Final = {command.name: command for command in commands()}
FORMER: Final = {
    "running": "ps",
    "kept": "keep ls",
    "restore-local": "keep restore",
    "fsck": "admin fsck",
    "collect": "admin gc",
    "expire": "admin expire",
    "backup": "admin backup",
    "restore-backup": "admin restore",
    "user": "admin user",
    "token": "admin token",
    "config": "admin config",
    "rules": "admin rules",
    "seal": "tag seal",
    "unseal": "tag unseal",
    "restore": "tag restore",
    "accept": "tag accept",
    "new-tag": "tag new",
    "labels": "build --print-labels",
    "releases": "release ls",
    "diff": "release diff",
    "quota": "ratelimit",
    "trust": "ledger trust",
    "receipt": "ledger receipt",
}
"""The commands that have other names now. `purge` has one too, but is never suggested."""


def every_command() -> Iterator[tuple[str, Any]]:
    """Return the words of every command and group that a user can type."""

    def below(command: Any, at: str) -> Iterator[tuple[str, Any]]:
        if isinstance(command, CommandOnDemand):
            command = command.loaded()
        if not command.hidden:
            yield at, command
            for name, child in getattr(command, "commands", {}).items():
                yield from below(child, f"{at} {name}".strip())

    return below(typer.main.get_command(build()), "")


NAMES: Final = tuple(name for name, _ in every_command())


def words_of(example: str) -> list[str]:
    """Return the words of an example after `boltseal`, without redirections and pipes."""
    return shlex.split(re.split(r" [<|] ", example)[0])[1:]


# --- the table ---


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_example_parses(command: Command) -> None:
    """The parser of each command accepts the command's example."""
    words = words_of(command.example)
    own = words[len(command.name.split()) :]
    loaded: Any = load(command.name)
    context = loaded.context_class(loaded, info_name=command.word, **loaded.context_settings)

    loaded.parse_args(context, own)

    assert words[: len(command.name.split())] == command.name.split()


def test_every_command_is_in_one_section() -> None:
    """No command is listed twice, and those of a group begin with the group's name."""
    names = [command.name for command in commands()]
    groups = [entry for section in SECTIONS for entry in section.entries if isinstance(entry, Group)]

    assert len(names) == len(set(names))
    assert all(command.name.startswith(f"{group.name} ") for group in groups for command in group.commands)
    assert {name.split()[0] for name in names if " " in name} == {group.name for group in groups}


def test_help_lists_every_command_below_its_section() -> None:
    """Each word of the table is in the section that the table puts it in."""
    shown = program.call("--help").out

    for section in SECTIONS:
        listed = re.search(rf"^{section.title}:\n((?:  .*\n)+)", shown, re.MULTILINE)
        assert listed is not None
        found = set(re.findall(r"[a-z-]+", listed[1]))
        for entry in section.entries:
            assert entry.name in found
            assert {each.word for each in (entry.commands if isinstance(entry, Group) else ())} <= found


# --- help ---


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_help_of_every_command_is_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No help line is wider than the terminal, and no text is cut off."""
    monkeypatch.setenv("COLUMNS", str(columns))
    widest = 0
    for name in NAMES:
        shown = program.call(*name.split(), "--help")
        lines = shown.out.splitlines()
        ends = [line for line in lines if line.rstrip().endswith(("...", "…")) and not line.startswith("Usage: ")]

        assert (name, shown.code, shown.err) == (name, 0, "")
        assert [line for line in lines if len(line) > columns] == []
        assert [line for line in ends if not line.endswith("]...")] == []
        widest = max(widest, *map(len, lines))

    assert widest > columns - 10


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_an_example_can_be_copied(name: str) -> None:
    """Each line of an example can be pasted into a shell as one call of the command."""
    shown = program.call(*name.split(), "--help").out
    lines = shown.partition("\nExample:\n")[2]
    words = words_of(lines.replace("\\\n", "").strip())

    assert words[: len(name.split())] == name.split()


def test_help_without_arguments_is_the_list_of_commands() -> None:
    """`boltseal help` and `boltseal --help` print the same."""
    assert program.call("help") == program.call("--help")


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_help_of_a_command_is_that_of_its_option(name: str) -> None:
    """`boltseal help COMMAND` prints what `boltseal COMMAND --help` prints."""
    assert program.call("help", *name.split()) == program.call(*name.split(), "--help")


def test_aliases_run_their_command() -> None:
    """`ls` and `cp` are aliases of `tags` and `copy`."""
    for alias, name in (("ls", "tags"), ("cp", "copy")):
        shown = program.call(alias, "--help").out

        assert shown.replace(f"boltseal {alias} ", f"boltseal {name} ") == program.call(name, "--help").out


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("roll back", "rollback"),
        ("undo", "tag restore"),
        ("gc", "admin gc"),
        ("list", "tags"),
        ("login", "admin user"),
        ("tamper", "scrub"),
        ("which image runs", "ps"),
        ("is a tag taken", "check"),
        ("docker hub limit", "ratelimit"),
        ("base image", "outdated"),
        ("leaked secret", "tag purge"),
        ("free disk space", "admin gc"),
        ("disk full", "admin gc"),
        ("certificate", "serve"),
        ("status", "health"),
        ("pre-commit", "verify"),
        *FORMER.items(),
    ],
)
def test_help_finds_a_command_by_a_keyword(words: str, name: str) -> None:
    """Synonyms, former words, and words of a question lead to the command."""
    shown = program.call("help", *words.split())
    name = name.partition(" --")[0]

    assert shown.code == 0
    assert re.search(rf"^(Usage: )?boltseal {name}\b", shown.out, re.MULTILINE)


def test_help_about_words_that_no_command_has_together_lists_the_nearest() -> None:
    """A command that most words describe is found, although "somehow" describes none."""
    shown = program.call("help", "somehow", "free", "disk", "space")

    assert shown.code == 0
    assert shown.out.splitlines() == ["boltseal admin gc  Delete unreferenced blobs older than a day."]


def test_help_lists_commands_with_the_word_in_their_name_first() -> None:
    """`rollback` comes before the other commands about rolling back."""
    shown = program.call("help", "roll", "back")

    assert shown.out.startswith("boltseal rollback ")


def test_help_about_nothing_known_is_not_found() -> None:
    """A word that matches no command gets one line and exit code 1."""
    shown = program.call("help", "xyzzy")

    assert (shown.code, shown.out) == (1, "")
    assert shown.err == 'boltseal: no command is about "xyzzy"; `boltseal --help` lists all commands\n'


# --- unknown words ---


def unknown(*arguments: str) -> str:
    """Return the one line that refuses these arguments."""
    shown = program.call(*arguments)

    assert (shown.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    return shown.err


@pytest.mark.parametrize(("word", "name"), FORMER.items())
def test_a_former_word_suggests_its_successor(word: str, name: str) -> None:
    """A former command name suggests its present one."""
    assert f"`boltseal {name}`" in unknown(word, "x")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("list", "tags"),
        ("images", "tags"),
        ("gc", "admin gc"),
        ("prune", "admin gc"),
        ("login", "docker login"),
        ("delete", "tag unseal"),
        ("rmi", "tag unseal"),
        ("push", "copy"),
        ("tag list", "tags"),
        ("keep list", "keep ls"),
        ("release list", "release ls"),
        ("admin collect", "admin gc"),
        ("admin user list", "admin user ls"),
        ("admin user delete", "admin user remove"),
        ("admin rules tset", "admin rules test"),
        ("digets", "digest"),
        ("verfy", "verify"),
        ("tag seel", "tag seal"),
        ("Rollback", "rollback"),
        ("ledger trsut", "ledger trust"),
    ],
)
def test_a_foreign_or_mistyped_word_suggests_a_command(typed: str, name: str) -> None:
    """A mistyped word, or one of another tool, suggests a command, also inside a group: one line, exit code 2."""
    assert re.search(rf"`(boltseal )?{name}`", unknown(*typed.split()))


@pytest.mark.parametrize(
    ("words", "noted"),
    [(["remove", "user"], False), (["delete", "tag"], True), (["login"], True), (["push"], True), (["users"], False)],
)
def test_help_prints_a_note_only_about_a_command_that_it_lists(words: list[str], noted: bool) -> None:
    """The note about deleting a tag does not stand below the command that removes a user."""
    ran = program.call("help", *words)

    assert ran.code == 0
    assert bool(ran.err) == noted


def test_every_suggested_command_exists() -> None:
    """Every command that the tables of suggestions name exists."""
    named = {name.partition(" --")[0] for names in SUGGESTIONS.values() for name in names}
    noted = {each for note in NOTES.values() for each in re.findall(r"`boltseal ([a-z ]+)`", note)}

    assert named | noted <= set(NAMES)


@pytest.mark.parametrize("word", ["purge", "purg", "pruge", "purgee", "Purge", "wipe", "destroy", "leak", "secret"])
@pytest.mark.parametrize("group", [(), ("tag",), ("admin",)])
def test_purge_is_never_suggested(group: tuple[str, ...], word: str) -> None:
    """`tag purge`, which deletes an image for ever, is never suggested for a mistyped word."""
    if (group, word) == (("tag",), "purge"):
        return

    assert {"tag purge"} == NEVER_SUGGESTED
    assert "boltseal tag purge" not in unknown(*group, word)


def test_an_unknown_word_does_not_write_to_the_terminal() -> None:
    """Control characters of the word are escaped, and it is cut off after 80 characters."""
    refused = unknown("\x1b[31m" + "x" * 500)

    assert "\x1b" not in refused
    assert len(refused) < 250


# --- completion ---


def completed(*words: str) -> set[str]:
    """Return what bash offers for the word at the cursor."""
    variables = {
        "_BOLTSEAL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "boltseal"],
        env=program.clean_environment(variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_a_shell_completes_commands_groups_and_options() -> None:
    """Completion offers commands of the root, groups and their commands, and options."""
    assert {"tag", "tags"} <= completed("boltseal", "ta")
    assert {"seal", "unseal", "new"} <= completed("boltseal", "tag", "")
    assert {"add", "remove", "ls"} <= completed("boltseal", "admin", "user", "")
    assert "--strict" in completed("boltseal", "digest", "--")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    """The completion script calls this program."""
    shown = program.call("completion", shell)

    assert shown.code == 0
    assert f"_BOLTSEAL_COMPLETE=complete_{shell}" in shown.out


def test_the_installed_completion_works_in_bash(tmp_path: Path) -> None:
    """`--install` writes a script that the user's bash loads."""
    installed = program.run("completion", "bash", "--install", environment={"HOME": str(tmp_path)})
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    asked = 'COMP_WORDS=(boltseal rel); COMP_CWORD=1; _boltseal_completion boltseal; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", f". ~/.bashrc; {asked}"],
        env=program.clean_environment(path),
        capture_output=True,
        text=True,
        check=True,
    )

    assert installed.code == 0
    assert str(tmp_path) in installed.err
    assert done.stdout == "release\n"


# --- texts ---


def texts() -> Iterator[Path]:
    """Return files with text for users: pages, examples, packaging, and the source with its messages."""
    yield from PAGES
    for folder, pattern in (("examples", "*"), ("packaging", "*"), ("src", "*.py"), ("docs", "*.md"), ("scripts", "*")):
        yield from (path for path in (ROOT / folder).rglob(pattern) if path.is_file() and path.suffix != ".pyc")
    yield ROOT / "CHANGELOG.md"


def test_no_text_writes_a_former_command() -> None:
    """No page, example or message says `boltseal WORD` with the name of a removed command."""
    former = "|".join(sorted((*FORMER, "purge"), key=len, reverse=True))
    written = re.compile(
        rf"(?<!name: )\bboltseal\s+({former})(?![\w-])(?! up to)|`(restore-local|restore-backup|new-tag)\b"
    )
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts()
        for match in written.finditer(path.read_text(encoding="utf-8"))
    }

    assert found == set()
