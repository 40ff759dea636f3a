"""docs/guides/questions.md: its commands run in their order and print what the page shows.

With `BOLTSEAL_WRITE_PAGES=1` the present output is written into the page, for review as a diff.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import servers
from tests.cli.program import clean_environment
from tests.docs.pages import typed_lines
from tests.real.compose_project import ENDS
from tests.real.sleeper import publish, sleeper
from tests.servers import Server

pytestmark = pytest.mark.real

PAGE: Final = Path(__file__).parents[3] / "docs/guides/questions.md"
WRITES: Final = os.environ.get("BOLTSEAL_WRITE_PAGES") == "1"
_PART = re.compile(r"^<!-- run: (?P<run>[^\n]+) -->$|^```console\n(?P<console>.*?)^```$", re.MULTILINE | re.DOTALL)
_TIMEOUT_S: Final = 120


class Stage:
    """A project, an engine, two registries, and the names that the page uses for them."""

    def __init__(self, folder: Path, ours: Server, theirs: Server, engine: Server) -> None:
        self.project = folder / "shop"
        self.project.mkdir()
        self._words = {
            ours.address: "localhost:5000",
            theirs.address: "localhost:5001",
            str(self.project): "/srv/shop",
            str(Path(engine.address).parent / "data"): "/var/lib/docker",
            engine.address: "/var/run/docker.sock",
        }
        programs = folder / "bin"
        programs.mkdir()
        (programs / "boltseal").write_text(f'#!/bin/sh\nexec {sys.executable} -m boltseal "$@"\n')
        (programs / "boltseal").chmod(0o755)
        self._environment = clean_environment(
            {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "DOCKER_HOST": f"unix://{engine.address}",
                "BOLTSEAL_STATE": str(folder / "state"),
                "HOME": str(folder),
                **{
                    f"GIT_{who}_{what}": f"{who}@example.com"
                    for who in ("AUTHOR", "COMMITTER")
                    for what in ("NAME", "EMAIL")
                },
                **{f"GIT_{who}_DATE": "2026-11-24T10:00:00Z" for who in ("AUTHOR", "COMMITTER")},
            }
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a command of the page; return its exit code and output, in the page's names."""
        for real, word in self._words.items():
            command = command.replace(word, real)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        output = done.stdout
        for real, word in self._words.items():
            output = _in_words(output, real, word)
        who = re.compile(rf"\b\w+@{re.escape(os.uname().nodename)}\b")
        return done.returncode, who.sub("ann@web1", output)


def _in_words(text: str, real: str, word: str) -> str:
    """Return the text with a name of the page's; a table's column keeps its width."""

    def column(found: re.Match[str]) -> str:
        return f"{word}{found[1]:<{len(found[0]) - len(word)}}"

    return re.sub(rf"{re.escape(real)}(\S*)(?=  )", column, text).replace(real, word)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Everything that the page uses: images, a git repository, a project."""
    with (
        servers.boltseal(tmp_path / "data") as ours,
        servers.docker_registry(tmp_path / "theirs") as theirs,
        servers.dockerd(tmp_path / "docker") as engine,
    ):
        stage = Stage(tmp_path, ours, theirs, engine)
        web = {"image": "localhost:5000/shop/app:1.4.2", "network_mode": "none", "stop_grace_period": "0s"}
        text = json.dumps({"name": "shop", "services": {"web": web}}, indent=2).replace("localhost:5000", ours.address)
        (stage.project / "compose.yaml").write_text(f"{text}\n")
        for number, words in enumerate(("one", "two"), 1):
            publish(ours.address, "made", f"{number}", sleeper(words, commands=(words,)))
        publish(ours.address, "made", "ill", sleeper("ill", command=ENDS))
        made = "localhost:5000/made"
        for command in (
            *(f"docker pull -q {made}:{tag} && docker tag {made}:{tag} made:{tag}" for tag in ("1", "2", "ill")),
            "docker tag made:1 localhost:5000/shop/app:1.4.2 && docker push -q localhost:5000/shop/app:1.4.2",
            "docker tag made:1 localhost:5001/team/tool:2.3.1 && docker push -q localhost:5001/team/tool:2.3.1",
            "docker tag made:ill ill:1",
            f"boltseal ledger trust localhost:5000 $(boltseal ledger key --data {tmp_path}/data)",
            "git init -q -b main && git add -A && git commit -q -m first && git tag v1.5.0",
        ):
            code, result = stage.run(command)
            assert code == 0, f"{command}: {result}"
        yield stage


def test_every_answer_of_the_page_is_what_is_printed(stage: Stage) -> None:
    """Each command of the page prints the page's output; digests are compared by equality, times and sizes not at all."""
    page = PAGE.read_text()
    played = _PART.sub(lambda found: _played(stage, found), page)
    if WRITES:
        PAGE.write_text(played)
        return

    assert "\n".join(_plain(played)) == "\n".join(_plain(page))


def test_the_first_steps_work(stage: Stage) -> None:
    """Each command of the first steps works in order; the second deploy, between the rollbacks, is a newer version."""
    prepared = "docker tag made:1 shop-app && docker rmi localhost:5000/shop/app:1.4.2"
    newer = (
        "docker tag made:2 localhost:5000/shop/app:1.5.1 && docker push -q localhost:5000/shop/app:1.5.1 && "
        "sed -i 's/1\\.4\\.2/1.5.1/' compose.yaml && boltseal deploy --update"
    )
    scrub = "--root /var/lib/docker --no-lock "
    ended = {}
    for line in (prepared, *typed_lines((PAGE.parents[1] / "getting-started/first-steps.md").read_text())):
        if line == "boltseal release ls":
            code, result = stage.run(newer)
            assert code == 0, result
        ended[line], result = stage.run(line.replace("boltseal scrub ", f"boltseal scrub {scrub}"))
        assert ended[line] == 0, f"{line}: {result}"

    assert [line.split()[1] for line in ended if line.startswith("boltseal")] == [
        *("check", "digest", "lock", "verify", "deploy", "ps", "release", "rollback", "scrub")
    ]


def _played(stage: Stage, found: re.Match[str]) -> str:
    """Return a part of the page with the present output."""
    if found["run"]:
        code, result = stage.run(found["run"])
        assert code == 0, f"{found['run']}: {result}"
        return found[0]
    lines = []
    for line in found["console"].splitlines():
        if line.startswith("$ "):
            _, result = stage.run(line[2:])
            assert "Traceback" not in result
            lines += [line, *(each.rstrip() for each in result.splitlines())]
    return "\n".join(["```console", *lines, "```"])


def _plain(text: str) -> list[str]:
    """Return a page's text without what differs at each run."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?", "TIME", text)
    text = re.sub(r"\d{4}-\d\d-\d\d", "DAY", text)
    text = re.sub(r"\b\d+(\.\d+)? ?(ms|s|seconds?|minutes?|min|KiB|MiB|B)(/s)?\b", "AMOUNT", text)
    text = re.sub(r"^  (Container|waiting for) .*\n", "", text, flags=re.MULTILINE)  # depends on the machine's speed
    return [word for block in text.split("```console") for word in _with_numbers(block).split()]


def _with_numbers(block: str) -> str:
    """Replace each digest of a block by a number, equal for equal digests. Docker may recompress an image between
    blocks."""
    digests: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        return digests.setdefault(found[0][:12], f"DIGEST{len(digests) + 1}")

    return re.sub(r"\b(?:[0-9a-f]{12,64}|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8})\b", numbered, block)
