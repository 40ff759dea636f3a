"""The wheel and the sdist: two builds are equal, uv and pipx install them, and the installed program works."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from tests.distribution.builds import PAGE, Dist, build_dist, checked, clone, is_valid_sbom, typed
from tests.docs.pages import ROOT, text, typed_lines
from tests.images import image, push
from tests.ports import free_port
from tests.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.real]

TIMEOUT_S = 180


def run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment of its own."""
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def install(tool: str, requirement: str, user: dict[str, str], wheels: Path) -> dict[str, str]:
    """Install a requirement as the page describes, from these wheels only; return the user's environment."""
    command = typed("uv tool install" if tool == "uv" else "pipx install")[:-1]
    command[0] = str(Path(sys.executable).with_name(tool))
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels)}
    offline |= {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1"}
    done = run([*command, "--python", os.path.realpath(sys.executable), requirement], user | offline)

    assert done.returncode == 0, done.stdout + done.stderr
    return user


@pytest.fixture(params=["uv", "pipx"])
def tool(request: pytest.FixtureRequest) -> str:
    """Each installer in turn."""
    found: str = request.param
    return found


def test_two_builds_are_equal(dist: Dist, revision: str, tmp_path: Path) -> None:
    """Two builds of a commit, also from a checkout with other times and permissions, give equal files and documents."""
    root = clone(tmp_path / "clone", revision)
    identity = {"GIT_COMMITTER_NAME": "tests", "GIT_COMMITTER_EMAIL": "tests@localhost"}
    tag = typed("git tag")
    checked(tag, identity, root)
    again = build_dist(tmp_path / "dist", tag[3], root=root)

    assert sorted(path.suffix for path in dist.folder.iterdir()) == [".gz", ".json", ".json", ".whl"]
    assert checked(typed("diff", dist=str(dist.folder), again=str(again.folder))) == ""


def test_a_wheel_from_the_sdist_is_the_same_wheel(dist: Dist, tmp_path: Path) -> None:
    """The sdist has everything that a build needs: the wheel from it equals the other."""
    with tarfile.open(dist.sdist) as tar:
        tar.extractall(tmp_path, filter="data")
        epoch_s = str(tar.getmembers()[0].mtime)
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "out")]
    checked(command, {"SOURCE_DATE_EPOCH": epoch_s}, source)

    assert (tmp_path / "out" / dist.wheel.name).read_bytes() == dist.wheel.read_bytes()


def test_the_wheel_has_the_package_and_nothing_else(dist: Dist) -> None:
    """The wheel has every committed file of the package and no other file."""
    committed = set(checked(["git", "ls-files", "--", "src/boltseal"]).splitlines())
    with zipfile.ZipFile(dist.wheel) as archive:
        names = set(archive.namelist())
    packaged = {name for name in names if ".dist-info/" not in name}

    assert {f"src/{name}" for name in packaged} == committed
    assert {name.partition(".dist-info/")[2] for name in names - packaged} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_every_command_of_the_page_is_run_by_these_tests() -> None:
    """Each command of docs/releasing.md is run by these tests, except those of `make`, which CI runs."""
    folder = ROOT / "tests/distribution"
    tests = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    run_here = set(re.findall(r'typed\(\s*"([^"]+)"', tests)) | set(re.findall(r'"(scripts/build-[a-z]+)"', tests))
    unknown = [
        line for line in typed_lines(text(PAGE)) if not line.startswith(("make ", *(f"{each} " for each in run_here)))
    ]

    assert len(run_here) >= 8
    assert unknown == []


INSTALLERS = {"uv": "uv tool install", "pipx": "pipx install --force", "pip": "pip install"}


async def test_the_client_works_alone(
    tool: str, dist: Dist, wheels: Path, registry: Server, user: dict[str, str]
) -> None:
    """`digest` and `health` ask a registry; the server's libraries are absent, and `serve` names their extra."""
    async with httpx2.AsyncClient(base_url=registry.url, trust_env=False) as http:
        await push(http, f"{tool}/app", "1.4.2", image("app"))
    environment = install(tool, typed("uv tool install", wheel=str(dist.wheel))[-1], user, wheels)
    version = run(typed("boltseal"), environment)
    health = run(["boltseal", "health", "--url", registry.url], environment)
    digest = run(["boltseal", "digest", f"{registry.address}/{tool}/app:1.4.2"], environment)
    serve = run(["boltseal", "serve"], environment)

    assert version.stdout == f"boltseal {dist.wheel.name.split('-')[1]}\n"
    assert (health.returncode, digest.returncode) == (0, 0), health.stderr + digest.stderr
    assert digest.stdout.startswith("sha256:")
    assert (serve.returncode, serve.stdout) == (2, "")
    assert f'{INSTALLERS[tool]} "boltseal[server]"' in serve.stderr


def test_the_server_extra_serves(tool: str, dist: Dist, wheels: Path, user: dict[str, str], tmp_path: Path) -> None:
    """The server that an installer builds from the sdist becomes ready, and refuses the second push to a tag."""
    environment = install(tool, typed("pipx install", sdist=str(dist.sdist))[-1], user, wheels)
    address = f"127.0.0.1:{free_port()}"
    command = ["boltseal", "serve", "--listen", address, "--data", str(tmp_path / "data")]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as server:
        try:
            codes = asyncio.run(_pushed_twice(f"http://{address}", server))
            health = run(["boltseal", "health", "--ready"], environment | {"BOLTSEAL_SERVER__LISTEN": address})
        finally:
            server.terminate()

    assert (health.returncode, codes) == (0, [201, 409]), (tmp_path / "log").read_text()
    assert server.returncode == 0


async def _pushed_twice(url: str, server: subprocess.Popen[bytes]) -> list[int]:
    transport = httpx2.AsyncHTTPTransport(retries=8)  # each waits twice as long as the one before
    async with httpx2.AsyncClient(transport=transport, base_url=url, trust_env=False) as http:
        await http.get("/readyz")
        assert server.poll() is None
        return [(await push(http, "shop/app", "1.4.2", image(words))).status_code for words in ("one", "two")]


def test_the_sbom_lists_every_locked_package(dist: Dist) -> None:
    """The SBOM is valid CycloneDX 1.6 and lists every locked package."""
    (path,) = dist.folder.glob("*.cdx.json")
    sbom = json.loads(path.read_bytes())
    locked = {line.partition(" ")[0] for line in text("requirements.lock").splitlines() if line[:1].isalnum()}

    assert is_valid_sbom(path.read_text())
    assert not is_valid_sbom(path.read_text().replace('"components"', '"parts"'))
    assert {f"{each['name']}=={each['version']}" for each in sbom["components"]} == locked
    assert sbom["metadata"]["component"]["hashes"][0]["content"] == hashlib.sha256(dist.wheel.read_bytes()).hexdigest()


def test_the_provenance_names_the_files_and_what_they_were_built_from(dist: Dist, revision: str) -> None:
    """The provenance has the digests of wheel and sdist, the commit, and the lock's hash."""
    (path,) = dist.folder.glob("*.intoto.json")
    statement = json.loads(path.read_bytes())
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    definition = statement["predicate"]["buildDefinition"]
    sources = {each["name"]: each["digest"] for each in definition["resolvedDependencies"]}

    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert subjects == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (dist.wheel, dist.sdist)}
    assert sources["source"] == {"gitCommit": revision}
    assert sources["requirements.lock"] == {
        "sha256": hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    }
    assert str(ROOT) not in path.read_text()
