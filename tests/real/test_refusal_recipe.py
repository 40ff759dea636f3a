"""The scripts of docs/guides/pipelines.md that react to refusals: taken from the page and run by sh, with curl and jq."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from tests import servers
from tests.docs.pages import fenced, text
from tests.programs import program
from tests.real.layout import image_layout
from tests.real.tools import CommandResult, run
from tests.servers import Server

pytestmark = pytest.mark.real

PROMOTE, TAKE_FREE, NEXT_VERSION = fenced(text("docs/guides/pipelines.md"), "sh")
USERS = ("ci", "prod")
PASSWORD = f"password of {USERS}".translate(str.maketrans("", "", "'(), "))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry with a user `ci`, who has pushed build-1 and build-2, and a user `prod`, who may only pull."""
    folder = tmp_path_factory.mktemp("guarded")
    for user in USERS:
        UserFile(folder / "data.keys" / "htpasswd").put(user, hash_password(PASSWORD))
    grants = '[[auth.grant]]\nusers = ["ci"]\nactions = ["pull", "push"]\n[[auth.grant]]\nusers = ["prod"]\nactions = ["pull"]\n'
    with servers.boltseal(folder / "data", config=grants) as server:
        for number in (1, 2):
            layout = image_layout(folder / str(number), f"build {number}".encode())
            to = ("--dest-tls-verify=false", f"--dest-creds=ci:{PASSWORD}")
            run("skopeo", "copy", *to, layout.source, f"docker://{server.address}/shop/app:build-{number}").checked()
        yield server


def promote(
    server: Server, folder: Path, build: str, tag: str, user: str = "ci", script: str = PROMOTE
) -> tuple[int, str]:
    """Run the script of the page as a user; return its exit code and what it printed."""
    for name in ("curl", "jq"):
        program(name)
    host = server.address.partition(":")[0]
    (folder / ".netrc").write_text(f"machine {host} login {user} password {PASSWORD}\n")
    line = 'sh -c "$1" promote "$2" shop/app "$3" "$4"; echo "exit $?"'
    output = run("/bin/sh", "-c", line, "x", script, server.url, build, tag, env={"HOME": str(folder)}).checked()
    printed, _, code = output.rpartition("exit ")
    return int(code), printed


def test_the_script_publishes_a_free_tag_once_and_again(guarded: Server, tmp_path: Path) -> None:
    """The script succeeds again when the same image is published under the same version."""
    first = promote(guarded, tmp_path, "build-1", "1.0.0")
    again = promote(guarded, tmp_path, "build-1", "1.0.0")

    assert first == again == (0, "published 1.0.0\n")


def test_the_script_prints_the_sealed_digest_and_a_free_tag(guarded: Server, tmp_path: Path) -> None:
    """For a sealed tag the script ends with exit code 1 and prints the facts of `detail`."""
    promote(guarded, tmp_path, "build-1", "2.0.0")
    code, printed = promote(guarded, tmp_path, "build-2", "2.0.0")

    assert code == 1
    assert printed.startswith("2.0.0 is sha256:")
    assert printed.endswith(", by ci; free: 2.0.1\n")


def test_the_script_says_that_a_right_is_missing(guarded: Server, tmp_path: Path) -> None:
    """The script distinguishes a missing right from a sealed tag, though both refusals have the code DENIED."""
    code, printed = promote(guarded, tmp_path, "build-1", "3.0.0", user="prod")

    assert (code, printed) == (1, "prod may not push in shop/app; ask the operator of this registry for a grant\n")


def test_the_script_that_takes_a_free_tag_prints_the_one_it_published(guarded: Server, tmp_path: Path) -> None:
    """A taken version gives the next one; where that is taken as well, or the right is missing, the job fails."""
    for build, tag in (("build-1", "5.0.0"), ("build-1", "5.1.0"), ("build-1", "5.1.1")):
        promote(guarded, tmp_path, build, tag)
    published = promote(guarded, tmp_path, "build-2", "5.0.0", script=TAKE_FREE)
    code, printed = promote(guarded, tmp_path, "build-2", "5.1.0", script=TAKE_FREE)
    denied = promote(guarded, tmp_path, "build-2", "5.0.0", user="prod", script=TAKE_FREE)

    assert published == (0, "5.0.1\n")
    assert code == 1
    assert "publish under a new tag" in printed
    assert denied == (1, "prod may not push in shop/app; ask the operator of this registry for a grant\n")


def check(server: Server, folder: Path, tag: str) -> CommandResult:
    """Run the script with `boltseal check`, which finds the login where podman keeps it."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "boltseal").write_text(f'#!/bin/sh\nexec {sys.executable} -m boltseal "$@"\n')
    (programs / "boltseal").chmod(0o755)
    kept = folder / "auth.json"
    host = server.address
    run("skopeo", "login", "--tls-verify=false", f"--authfile={kept}", "-u", "ci", "-p", PASSWORD, host).checked()
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "REGISTRY_AUTH_FILE": str(kept),
        "BOLTSEAL_STATE": str(folder / "state"),
    }
    return run("/bin/sh", "-c", NEXT_VERSION, "x", f"{host}/shop/app", tag, env=environment)


def test_the_check_before_a_build_says_whether_the_tag_is_free(guarded: Server, tmp_path: Path) -> None:
    """A taken tag fails the job before the build, with one request."""
    promote(guarded, tmp_path, "build-1", "4.0.0")
    free, taken = check(guarded, tmp_path, "4.0.1"), check(guarded, tmp_path, "4.0.0")

    assert (free.ok, free.text.splitlines()[-1]) == (True, "4.0.1 is free")
    assert (taken.ok, taken.text.splitlines()[-1]) == (False, "4.0.0 is not free; raise the version")
