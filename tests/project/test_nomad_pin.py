"""Nomad jobs are locked, pinned, verified and unpinned like the other files of a project."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.images import image, push
from tests.project.projects import written
from tests.servers import Server

pytestmark = pytest.mark.slow

WEB, TASK = image("web"), image("task")
JOB = """job "shop" {{
  group "web" {{
    task "server" {{
      driver = "docker"
      config {{
        image = "{0}/shop/web:1.0"   # ours
        args  = ["-image", "{0}/shop/web:1.0"]
      }}
    }}
  }}
}}
"""
JSON = """{{"Job": {{"ID": "once", "TaskGroups": [{{"Name": "once", "Tasks": [
  {{"Name": "run", "Driver": "docker", "Config": {{"image": "{0}/shop/task:2.0", "args": ["{0}/shop/task:2.0"]}}}}
]}}]}}}}
"""
TASKS = 'variable "tag" {{\n  default = "1.0"\n}}\n' + JOB.replace("web:1.0", "web:${{var.tag}}")


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Path:
    """Jobs in three forms, whose images are in the registry."""

    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            for name, tag, document in (("web", "1.0", WEB), ("task", "2.0", TASK)):
                assert (await push(client, f"shop/{name}", tag, document)).status_code == 201

    asyncio.run(run())
    files = {"web.nomad.hcl": JOB, "old.nomad": JOB, "once.nomad.json": JSON}
    return written(tmp_path / "jobs", {name: text.format(server.address) for name, text in files.items()})


def texts(project: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in project.glob("*.nomad*")}


def test_jobs_are_pinned_and_unpinned_byte_for_byte(project: Path, server: Server) -> None:
    """`lock`, `verify`, `pin` and `pin --unpin` change the image of a task, and nothing that only looks like one."""
    before = texts(project)
    locked, verified, pinned = (
        program.call(*words, "--project", project) for words in (("lock",), ("verify",), ("pin", "--write"))
    )
    after = texts(project)
    again = program.call("verify", "--project", project)
    unpinned = program.call("pin", "--unpin", "--write", "--project", project)
    web, task = f"{server.address}/shop/web:1.0", f"{server.address}/shop/task:2.0"

    assert [each.code for each in (locked, verified, pinned, again, unpinned)] == [0] * 5, locked.err + pinned.err
    for name in ("web.nomad.hcl", "old.nomad"):
        assert after[name] == before[name].replace(f'image = "{web}"', f'image = "{web}@{WEB.digest}"')
        assert after[name] != before[name]
    assert after["once.nomad.json"] == before["once.nomad.json"].replace(
        f'"image": "{task}"', f'"image": "{task}@{TASK.digest}"'
    )
    assert texts(project) == before


def test_a_job_with_a_variable_is_locked_and_not_edited(project: Path, server: Server) -> None:
    """A digest beside a variable would be that of another tag, so `pin` names the line and writes nothing there."""
    written(project, {"tasks.nomad.hcl": TASKS.format(server.address)})
    before = texts(project)["tasks.nomad.hcl"]
    locked, pinned = (program.call(*words, "--project", project) for words in (("lock",), ("pin", "--write")))

    assert locked.code == 0, locked.err
    assert texts(project)["tasks.nomad.hcl"] == before
    assert "a variable sets a part of it" in pinned.out + pinned.err


def test_a_tag_that_moved_is_found_in_a_job(project: Path) -> None:
    """`verify` compares the jobs with the lock: an image that is not locked is exit code 1."""
    assert program.call("lock", "--project", project).code == 0
    job = project / "web.nomad.hcl"
    job.write_text(job.read_text().replace(":1.0", ":1.1"))
    done = program.call("verify", "--project", project)

    assert done.code == 1, done.out + done.err
    assert "web:1.1" in done.out + done.err
