"""The recipes of docs/guides/explain-updates.md really run: a branch with the new lock, and a request with the explanation.

git and curl are real, with a bare repository as the remote. Only the forges are stand-ins: `gh` is a program that records
its arguments, GitLab's API a server that records the form.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import httpx2
import pytest
import yaml

from tests.cli.program import clean_environment
from tests.images import Document, push
from tests.packaged_images import DPKG, dpkg, image_of, layer_of
from tests.polling import until_signed
from tests.servers import Server

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "explain-updates.md"
OLD, NEW, NEWEST = (image_of(layer_of({DPKG: dpkg(openssl=f"3.0.{number}")})) for number in (1, 2, 3))
BRANCH = "boltseal-images"
GH = """#!/bin/sh
# create a pull request, which there can be once; edit it afterwards
printf '%s\\n' "$@" > "$RECORDED/arguments"
[ "$2" = edit ] || [ ! -e "$RECORDED/body" ] || exit 1
while [ "$1" != --body-file ]; do shift; done
cp "$2" "$RECORDED/body"
"""


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def recipe(language: str, key: str) -> dict[str, Any]:
    """Return the recipe of the page that has a key."""
    found = [yaml.safe_load(text) for text in blocks(language) if key in text]
    assert len(found) == 1
    whole: dict[str, Any] = found[0]
    return whole


class Posted(NamedTuple):
    """A form that was posted to GitLab's API."""

    path: str
    token: str
    form: dict[str, list[str]]


@contextmanager
def gitlab() -> Iterator[tuple[str, list[Posted]]]:
    """Yield the address of a stand-in of GitLab, and what is posted to it."""
    posted: list[Posted] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            posted.append(Posted(self.path, self.headers["PRIVATE-TOKEN"], parse_qs(body)))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Clone:
    """A clone of a locked project, whose image has a newer digest or another tag, with the programs of a job on PATH."""

    root: Path
    server: Server
    environment: dict[str, str]

    def shell(self, script: str, **more: str) -> None:
        """Run a step as GitHub and GitLab do: with the errors of commands and pipes."""
        script = script.replace("registry.example.com", self.server.address)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.root,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def diff(self) -> list[str]:
        """Return the changed lines of the branch that was pushed, by the remote itself."""
        self.git("fetch", "--quiet", "origin", BRANCH)
        lines = self.git("diff", "--unified=0", "origin/main", "FETCH_HEAD").splitlines()
        return [line for line in lines if line.startswith(("+", "-"))]


def publish(server: Server, tag: str, document: Document, entries: int) -> None:
    """Push an image, and wait until the ledger has signed so many entries."""

    async def pushed() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert (await push(client, "shop/app", tag, document)).status_code == 201
            await until_signed(client, entries)

    asyncio.run(pushed())


@pytest.fixture
def clone(tmp_path: Path, server: Server) -> Clone:
    programs, recorded = tmp_path / "bin", tmp_path / "recorded"
    recorded.mkdir()
    programs.mkdir()
    for name, text in {"gh": GH, "boltseal": f'#!/bin/sh\nexec {sys.executable} -m boltseal "$@"\n'}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    base = clean_environment({"RECORDED": str(recorded), "RUNNER_TEMP": str(recorded), "HOME": str(tmp_path)})
    base |= {"PATH": f"{programs}:{base['PATH']}", "GIT_CONFIG_NOSYSTEM": "1"}
    made = Clone(tmp_path / "clone", server, base)
    publish(server, "edge", OLD, 2)
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(remote)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(made.root)], check=True, capture_output=True)
    (made.root / "compose.yaml").write_text(f"services:\n  web:\n    image: {server.address}/shop/app:edge\n")
    made.shell(
        "git checkout -q -b main; git config user.name a; git config user.email a@example.com; "
        "boltseal lock --allow registry.example.com; git add .; git commit -qm first; git push -q origin main"
    )
    return made


def digests(lines: list[str]) -> list[str]:
    """Return the image digests of changed lines, with the sign of each line."""
    return [
        f"{line[0]}{found}" for line in lines for found in re.findall(r"\bdigest = \"(sha256:[0-9a-f]{64})\"", line)
    ]


def explains(text: str, old: Document, new: Document, versions: tuple[str, str]) -> bool:
    """Return whether Markdown explains this change."""
    return all(each in text for each in (f"`{old.digest}`", f"`{new.digest}`", *versions, "openssl"))


def test_the_job_for_github_opens_a_pull_request_and_updates_it(clone: Clone, tmp_path: Path) -> None:
    """The steps push a branch with the new lock, open a pull request with the explanation, and update both later."""
    steps = [step["run"] for step in recipe("yaml", "runs-on")["jobs"]["update"]["steps"] if "run" in step]
    recorded = tmp_path / "recorded"

    def job() -> list[str]:
        clone.git("checkout", "--quiet", "main")
        for step in steps:
            clone.shell(step, GH_TOKEN="token")  # noqa: S106 - a stand-in reads it
        return (recorded / "arguments").read_text().splitlines()[:2] if (recorded / "arguments").exists() else []

    unchanged = job()
    publish(clone.server, "edge", NEW, 3)
    opened, first, body = job(), clone.diff(), (recorded / "body").read_text()
    publish(clone.server, "edge", NEWEST, 4)
    edited, second, last = job(), clone.diff(), (recorded / "body").read_text()

    assert (unchanged, opened, edited) == ([], ["pr", "create"], ["pr", "edit"])
    assert digests(first) == [f"-{OLD.digest}", f"+{NEW.digest}"]
    assert digests(second) == [f"-{OLD.digest}", f"+{NEWEST.digest}"]
    assert {line for line in first if line.startswith(("---", "+++"))} == {"--- a/boltseal.lock", "+++ b/boltseal.lock"}
    assert explains(body, OLD, NEW, ("3.0.1", "3.0.2"))
    assert explains(last, OLD, NEWEST, ("3.0.1", "3.0.3"))


def test_the_job_for_gitlab_opens_a_merge_request(clone: Clone, tmp_path: Path) -> None:
    """The script pushes a branch with the new lock, and posts a merge request with the explanation to GitLab's API."""
    script = "\n".join(recipe("yaml", "CI_PIPELINE_SOURCE")["update-images"]["script"])
    clone.git("config", f"url.{tmp_path}/remote.git.insteadOf", "https://images:token@gitlab.test/shop/web.git")
    publish(clone.server, "edge", NEW, 3)
    with gitlab() as (url, posted):
        variables: Mapping[str, str] = {
            "GITLAB_TOKEN": "token",
            "CI_SERVER_FQDN": "gitlab.test",
            "CI_PROJECT_PATH": "shop/web",
            "CI_PROJECT_ID": "7",
            "CI_DEFAULT_BRANCH": "main",
            "CI_API_V4_URL": f"{url}/api/v4",
        }
        clone.shell(script, **variables)
    [(path, token, form)] = posted

    assert digests(clone.diff()) == [f"-{OLD.digest}", f"+{NEW.digest}"]
    assert (path, token) == ("/api/v4/projects/7/merge_requests", "token")
    assert (form["source_branch"], form["target_branch"]) == ([BRANCH], ["main"])
    assert explains(form["description"][0], OLD, NEW, ("3.0.1", "3.0.2"))


def test_the_task_of_renovate_locks_and_explains_what_renovate_wrote(clone: Clone) -> None:
    """After Renovate's edit of a tag, its allowed command changes exactly the files that its filters add to the commit."""
    allowed, rules = (json.loads(text) for text in blocks("json"))
    task = rules["packageRules"][0]["postUpgradeTasks"]
    publish(clone.server, "1.4.2", OLD, 3)
    publish(clone.server, "1.4.2.1", NEW, 4)
    compose = clone.root / "compose.yaml"
    compose.write_text(compose.read_text().replace("edge", "1.4.2"))
    clone.shell("boltseal lock --allow registry.example.com; git commit -qam sealed; git push -q origin main")
    compose.write_text(compose.read_text().replace("1.4.2", "1.4.2.1"))
    for command in task["commands"]:
        assert any(re.search(pattern, command) for pattern in allowed["allowedCommands"])
        clone.shell(command)
    changed = sorted(line[3:] for line in clone.git("status", "--porcelain").splitlines())

    assert changed == ["boltseal.lock", "compose.yaml", "images.md"] == sorted([*task["fileFilters"], "compose.yaml"])
    assert digests(clone.git("diff", "boltseal.lock").splitlines()) == [f"-{OLD.digest}", f"+{NEW.digest}"]
    assert explains((clone.root / "images.md").read_text(), OLD, NEW, ("3.0.1", "3.0.2"))
