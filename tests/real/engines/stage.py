"""A project, an engine and two registries for the commands of a page, under the addresses and paths that the pages use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests import servers
from tests.cli.program import clean_environment
from tests.real.compose_project import ENDS
from tests.real.sleeper import publish, sleeper
from tests.servers import Server

_TIMEOUT_S: Final = 120


class Stage:
    """Runs the commands of a page, and replaces the page's addresses and paths with those of this test."""

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
        self._typed = {"--data ./data": f"--data {ours.folder}"}
        programs = folder / "bin"
        programs.mkdir()
        (programs / "boltseal").write_text(f'#!/bin/sh\nexec {sys.executable} -m boltseal "$@"\n')
        (programs / "boltseal").chmod(0o755)
        self._environment = clean_environment(
            {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "DOCKER_HOST": f"unix://{engine.address}",
                "BOLTSEAL_STATE": str(folder / "state"),
                "BOLTSEAL_ENGINES": str(folder / "state" / "engines"),
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
        """Run a command of the page; return its exit code and its output with the page's addresses and paths."""
        for word, real in ({word: real for real, word in self._words.items()} | self._typed).items():
            command = command.replace(word, real)
        if " KEY" in command:
            command = command.replace(" KEY", f" {self.run('boltseal ledger key --data ./data')[1].strip()}")
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


def _in_words(output: str, real: str, word: str) -> str:
    """Return the output with the page's word for a real value; a table's column keeps its width."""

    def column(found: re.Match[str]) -> str:
        return f"{word}{found[1]:<{len(found[0]) - len(word)}}"

    return re.sub(rf"{re.escape(real)}(\S*)(?=  )", column, output).replace(real, word)


@contextmanager
def staged(tmp_path: Path) -> Iterator[Stage]:
    """Start the engine and both registries, and publish images; a git repository has the project."""
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
            code, output = stage.run(command)
            assert code == 0, f"{command}: {output}"
        yield stage
