"""Finds commands: by keyword for `boltseal help KEYWORD`, and the right one for a foreign or mistyped word.

`tag purge` deletes an image for good, so it is never suggested for an unknown or mistyped word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Final

from boltseal.cli.command_rows import Command, Group
from boltseal.cli.command_table import SECTIONS, commands
from boltseal.errors import quote

NEVER_SUGGESTED: Final = frozenset({"tag purge"})

SUGGESTIONS: Final = {
    "clean": ("admin gc", "admin expire"),
    "cleanup": ("admin gc", "admin expire"),
    "collect": ("admin gc",),
    "containers": ("ps",),
    "delete": ("tag unseal",),
    "doctor": ("admin fsck", "scrub"),
    "download": ("pull",),
    "fetch": ("pull",),
    "images": ("tags", "keep ls"),
    "kept": ("keep ls",),
    "labels": ("build --print-labels",),
    "list": ("tags",),
    "login": ("admin user",),
    "logout": ("admin user",),
    "logs": ("history",),
    "migrate": ("copy",),
    "mirror": ("copy",),
    "monitor": ("ledger monitor", "watch"),
    "new-tag": ("tag new",),
    "prune": ("admin gc", "admin expire"),
    "push": ("copy", "build"),
    "quota": ("ratelimit",),
    "releases": ("release ls",),
    "remove": ("tag unseal",),
    "resolve": ("digest",),
    "restore-backup": ("admin restore",),
    "restore-local": ("keep restore",),
    "revert": ("rollback", "tag restore"),
    "rm": ("tag unseal",),
    "rmi": ("tag unseal",),
    "run": ("serve", "deploy"),
    "running": ("ps",),
    "show": ("inspect",),
    "start": ("serve", "deploy"),
    "sync": ("copy",),
    "undo": ("rollback", "tag restore"),
    "up": ("deploy",),
    "users": ("admin user",),
}
"""Words of other tools, former words and plain words, and the commands that do what they ask for."""

_LOGIN: Final = (
    "boltseal uses the logins of `docker login`, `podman login` and `skopeo login`; "
    "`boltseal admin user` adds users to a registry"
)
_DELETE: Final = "to delete a tag, allow it with `boltseal tag unseal`, and then delete it with your client"
NOTES: Final = {
    **dict.fromkeys(("login", "logout"), _LOGIN),
    **dict.fromkeys(("delete", "remove", "rm", "rmi"), _DELETE),
    "purge": "see `boltseal tag --help`",
    "push": "push with docker, podman or `boltseal build`; `boltseal copy` copies an image",
}
"""What to do instead, where the name of a command does not explain it."""

_SYNONYMS: Final = {
    "list": "ls",
    "collect": "gc",
    "delete": "remove",
    "rm": "remove",
    "create": "add",
    "compare": "diff",
}
"""Synonyms of the words of a group."""
_IGNORED: Final = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "do",
        "does",
        "for",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "my",
        "of",
        "on",
        "or",
        "the",
        "to",
        "was",
        "what",
        "when",
        "which",
        "with",
    ]
)
_CLOSE: Final = 0.7
_MOST: Final = 3


def unknown_command(group: Sequence[str], word: str, known: Collection[str]) -> str:
    """Return the message about an unknown word after `boltseal GROUP`. `known`: the words that the group has."""
    typed = f"no command {quote(' '.join([*group, word]))}"
    if word in NOTES and _SYNONYMS.get(word) not in known:
        return f"{typed}; {NOTES[word]}"
    found = suggestions(group, word, known)
    if not found:
        listed = " ".join(["boltseal", *group, "--help"])
        return f"{typed}; `{listed}` lists commands, `boltseal help KEYWORD` finds one"
    *others, last = [f"`boltseal {name}`" for name in found]
    return f"{typed}; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def suggestions(group: Sequence[str], word: str, known: Collection[str]) -> list[str]:
    """Return the commands that an unknown word may stand for, the most likely first: what the first of these steps finds.

    1. The group's own word for the same thing. 2. The table of foreign words. 3. A command of this word elsewhere. 4. A
    similar word, of the group before others. 5. A keyword.
    """
    here = {each: [" ".join([*group, each])] for each in known}
    elsewhere = _names_by_word()
    everywhere = {**elsewhere, **{each: list(names) for each, names in SUGGESTIONS.items()}}
    steps = (
        here.get(_SYNONYMS.get(word, "")),
        SUGGESTIONS.get(word),
        elsewhere.get(word),
        _similar(word, here),
        _similar(word, everywhere),
        [command.name for command in commands() if word in command.keywords.split()],
    )
    for found in steps:
        if safe := [name for name in found or () if name not in NEVER_SUGGESTED]:
            return safe[:_MOST]
    return []


def notes(words: Sequence[str], found: Collection[str]) -> list[str]:
    """Return the notes about words whose commands are among those that were found."""
    about = [word for word in words if word in NOTES]
    return [NOTES[word] for word in about if not (named := SUGGESTIONS.get(word)) or set(named) & set(found)]


def search(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and summary of the commands that most of the words describe: those with such a name first.

    A word describes a command if a word of its name, summary or keywords begins with it; common words such as "which" are
    left out, unless there is no other.
    """
    wanted = [word for text in words for word in _words(text)]
    wanted = [word for word in wanted if word not in _IGNORED] or wanted
    entries: list[Command | Group] = [*commands(), *_groups()]
    counts = [_number_found(wanted, _described(entry)) for entry in entries]
    most = max(counts)
    found = [entry for entry, count in zip(entries, counts, strict=True) if 0 < count == most]
    found.sort(key=lambda entry: _number_found(wanted, _words(entry.name)) == 0)
    return [(entry.name, entry.summary) for entry in found]


def _number_found(wanted: Sequence[str], described: Collection[str]) -> int:
    """Return how many of the words are the beginning of a word in `described`."""
    return sum(any(each.startswith(word) for each in described) for word in wanted)


def _described(entry: Command | Group) -> set[str]:
    """Return every word by which a command is found."""
    if isinstance(entry, Group):
        return {entry.name}
    former = [word for word, names in SUGGESTIONS.items() if entry.name in names]
    return set(_words(" ".join([entry.name, *entry.aliases, entry.summary, entry.keywords, *former])))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9-]+", text.lower())


def _groups() -> list[Group]:
    return [entry for section in SECTIONS for entry in section.entries if isinstance(entry, Group)]


def _names_by_word() -> dict[str, list[str]]:
    """Return the commands and groups of each word and alias."""
    found: dict[str, list[str]] = {group.name: [group.name] for group in _groups()}
    for command in commands():
        for word in (command.word, *command.aliases):
            found.setdefault(word, []).append(command.name)
    return found


def _similar(word: str, names: dict[str, list[str]]) -> list[str]:
    """Return the commands of the words that are spelled like this one, the most similar first."""
    close = get_close_matches(word, names, n=_MOST, cutoff=_CLOSE)
    return list(dict.fromkeys(name for each in close for name in names[each]))
