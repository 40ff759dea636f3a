"""The parameters of all commands: one metavar per kind of value, one meaning per option, one type for durations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from boltseal.cli.command_table import commands
from boltseal.cli.root import load
from tests.cli import program

KINDS = {
    "A": "the LOCATION of the first of two images; the output names it so",
    "ACTION": "what an API token allows: pull, push, delete",
    "ADDRESS": "a container engine: unix:///PATH, tcp://HOST:PORT, ssh://HOST",
    "ARGUMENT": "an argument for another program",
    "B": "the LOCATION of the second of two images",
    "COMMAND": "a command of boltseal",
    "COMMIT": "a commit of a git repository",
    "DIGEST": "a digest, or a prefix of at least seven hex digits where one of several is chosen",
    "DURATION": "a whole number and a unit: 90s, 15m, 6h, 7d",
    "FILE": "a file",
    "FOLDER": "a folder",
    "GLOB": "names, with `*` for a part without `/` and `**` for any: shop/**",
    "HASH": "a SHA-256 in hex that a former run printed",
    "HOST": "a registry, without a scheme: docker.io, localhost:5000",
    "HOST:PORT": "where a server listens",
    "SESSION": "the ID of a session of a pipeline, which `admin session ls` shows",
    "ID": "the ID of an API token, which `admin token ls` shows",
    "IMAGE": "a reference of an image: localhost:5000/shop/app:1.4.2",
    "KEYWORD": "a word to search for",
    "KEY": "the public key of a ledger or a witness, as a C2SP note has it",
    "LEVEL": "a level of the log",
    "LOCATION": "a reference, oci:FOLDER:TAG, docker-archive:FILE, docker-daemon:IMAGE",
    "NAME": "a name of the user's own: a project, a profile, a user",
    "NAME=VALUE": "a build argument",
    "NUMBER": "a whole number",
    "PATH": "a file or a folder",
    "PLATFORM": "an operating system and an architecture: linux/amd64",
    "RATE": "bytes per second, such as 50M",
    "REPOSITORY": "a repository, or the beginning of some: localhost:5000/shop",
    "SIGNER": "a public key's file, or identity=NAME,issuer=URL,trusted_root=FILE",
    "SERVICE": "a service of a Compose project",
    "SHARE": "a part of the whole, such as 1/7",
    "SOURCE": "a LOCATION that is read",
    "TAG": "a tag",
    "TARGET": "a LOCATION that is written",
    "TEXT": "free text",
    "TIME": "a point in time in UTC: 2026-11-24T08:29, or its beginning",
    "bash": "a shell, as zsh and fish",
    "fish": "a shell",
    "zsh": "a shell",
    "URL": "an http or https address",
}
"""Every metavar, and what a value of it is."""

MEANINGS = {
    "--all": "everything that there is: all users, all digests",
    "--allow": "contact a registry that only the project's files, a store or a lock name",
    "--base": "an image that another one is based on",
    "--compose": "a Compose file: its images, or its containers",
    "--count-pulls": "read manifests also where a registry counts that as pulls",
    "--digest": "the digest of an image",
    "--dry-run": "show what would be done, and change nothing",
    "-f": "the files that describe the project",
    "--file": "the files that describe the project",
    "--from": "where something is taken from",
    "--force": "do it although the same work, or another image, is there",
    "--host": "the container engine, or for `scrub` the host",
    "--key": "the key of the ledger",
    "--kube": "a cluster, by a context of kubectl",
    "--lock": "a lock file",
    "--namespace": "a namespace of a cluster",
    "--offline": "contact no registry",
    "--platform": "the platform of an image",
    "--project": "the folder with boltseal.lock",
    "-p": "a project by its name: of Compose, or of releases",
    "--project-name": "a project by its name: of Compose, or of releases",
    "--reason": "why; recorded permanently",
    "--rebuild": "make again what is outdated, or what was lost",
    "--replace": "put another in place of the present one: a key, or an image whose files differ",
    "--running": "of the containers that run",
    "--scheme": "what a tag is made of",
    "--scrub": "verify an image on the disk before it gets its name",
    "--tag": "a tag: of what is pushed, or of what runs",
    "--to": "which former state",
    "--update": "lock what tags resolve to now",
    "--user": "the owner of API tokens",
    "--wait": "how long to wait at most",
    "--write": "write the project's files",
    "--listen": "where a server listens",
    "--witness": "a witness whose cosignature is required",
    "--dockerfile": "a Dockerfile",
    "--every": "repeat",
    "--repository": "a repository of a registry",
    "--server": "a registry, by its admin API",
}
"""Options that several commands describe in their own words; each has one meaning."""

REGISTRY_OPTIONS = ("--plain-http", "--ca-file", "--registry-config", "--anonymous", "--strict", "--json")


class Parameter(NamedTuple):
    command: str
    name: str
    metavar: str
    is_flag: bool
    help: str
    type: str


def _walk(name: str, command: Any) -> Iterator[Parameter]:
    for each in command.params:
        named = [option for option in each.opts if option.startswith("-")] or [each.name]
        is_flag = bool(getattr(each, "is_flag", False))
        for option in named:
            yield Parameter(name, option, each.metavar or "", is_flag, each.help or "", each.type.name)
    for word, one in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {word}", one)


def parameters() -> list[Parameter]:
    """Return every parameter of every command."""
    return [each for command in commands() for each in _walk(command.name, load(command.name))]


def test_each_kind_of_value_has_one_metavar() -> None:
    """Every kind of value has one metavar in the help of all commands."""
    valued = [each for each in parameters() if not each.is_flag and each.type != "choice" and each.name != "--help"]
    unknown = {
        (each.command, each.name, each.metavar)
        for each in valued
        for part in each.metavar.replace("[-- ", "[").strip("[].,").replace("]...", "").split("|")
        if part.rstrip(".,") not in KINDS
    }

    assert unknown == set()


def test_each_option_has_one_meaning() -> None:
    """An option has one kind of value and one help text in all commands, with a listed exception per command."""
    kinds, words = defaultdict(set), defaultdict(set)
    for each in parameters():
        if each.name.startswith("-"):
            kinds[each.name].add("flag" if each.is_flag else each.metavar.removesuffix(",..."))
            words[each.name].add(each.help)
    kinds["--to"] = {"DIGEST|NUMBER"}  # for a tag's history a TIME is possible too
    kinds["--from"] = {"URL|FOLDER"}  # what a registry is moved from is a folder

    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
    assert {name: found for name, found in words.items() if len(found) > 1 and name not in MEANINGS} == {}


def test_no_option_takes_a_duration_as_a_bare_number() -> None:
    """Every duration option accepts 90s, 15m, 6h and 7d, and refuses a number without a unit."""
    durations = [each for each in parameters() if each.metavar == "DURATION"]

    assert {each.name for each in durations} >= {"--every", "--watch", "--window", "--wait", "--keep-for", "--cooldown"}
    assert [each for each in parameters() if "second" in each.name and each.metavar != "RATE"] == []
    for each in durations:
        result = program.call(*each.command.split(), each.name, "90", "x", "y")
        assert (result.code, "whole number and a unit (s, m, h or d)" in result.err) == (2, True), each


def test_commands_that_connect_to_registries_take_the_same_options() -> None:
    """Commands that connect to registries share one declaration of options; `health` asks one address without a login."""
    taken = defaultdict(set)
    for each in parameters():
        taken[each.command].add(each.name)
    connecting = {name for name, options in taken.items() if "--plain-http" in options}

    assert len(connecting) > 20
    assert {name: found for name in connecting if (found := {*REGISTRY_OPTIONS, "-q", "-v"} - taken[name])} == {}
