"""The values of the table of commands: a command, a group of commands, a section of `boltseal --help`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the table.

    `summary`: its line in `boltseal --help`, at most 60 columns. `aliases`: other spellings of `word`. `keywords`: further
    words by which `boltseal help KEYWORD` finds it. `group`: the module has a `typer.Typer` with subcommands instead of a function. `extra`: the extra of the distribution
    with its dependencies.
    """

    name: str
    summary: str
    example: str
    keywords: str = ""
    aliases: tuple[str, ...] = ()
    group: bool = False
    extra: str | None = None
    word: str = field(init=False)
    """The name inside the group: `seal` of `tag seal`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "word", self.name.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Group:
    """A group of commands whose modules are loaded one by one.

    `summary`: the beginning of its line in `boltseal --help`, before the words of its commands.
    """

    name: str
    summary: str
    help: str
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A section of `boltseal --help`."""

    title: str
    entries: tuple[Command | Group, ...]
