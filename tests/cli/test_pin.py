"""`boltseal pin` and `boltseal lock --emit`, on projects with a lock; and without one, against a registry that listens."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import httpx2
import pytest
import yaml

from boltseal.lockfile.document import LOCK_NAME, LockedImage, sorted_lock
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.cli import program
from tests.cli.program import Run
from tests.images import image, push
from tests.project.projects import written
from tests.servers import Server

NGINX, REDIS = Digest.of(b"nginx"), Digest.of(b"redis")
POD = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: web, image: nginx:1.25}]}\n"
COMPOSE = "services:\n  web: {image: nginx:1.25}   # ours\n  cache:\n    image: redis\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Compose file, and a lock of what it names."""
    return locked(written(tmp_path, {"compose.yml": COMPOSE}))


def locked(root: Path, **images: Digest | None) -> Path:
    """The project with a lock of these images; without any, of nginx:1.25 and redis:latest."""
    known = {"nginx:1.25": NGINX, "redis:latest": REDIS, **images}
    lock = sorted_lock(
        [LockedImage(Reference.parse(name), digest, 1_764_000_000_000_000) for name, digest in known.items()], {}
    )
    (root / LOCK_NAME).write_text(format_lock(lock))
    return root


def pin(project: Path, *more: str | Path) -> Run:
    """The verb, in this process."""
    return program.call("pin", "--project", project, *more)


def test_without_write_the_difference_is_shown_and_nothing_changed(project: Path) -> None:
    """As `git diff` shows it, on stdout; talk is on stderr."""
    told = pin(project)

    assert told.code == 0
    assert told.out.splitlines()[:5] == [
        "--- a/compose.yml",
        "+++ b/compose.yml",
        "@@ -1,5 +1,5 @@",
        " services:",
        "-  web: {image: nginx:1.25}   # ours",
    ]
    assert f"+  web: {{image: nginx:1.25@{NGINX}}}   # ours" in told.out
    assert told.err == "2 references: 2 pinned\n1 file would change: --write writes them\n"
    assert (project / "compose.yml").read_text() == COMPOSE


def test_written_files_name_what_was_locked_and_come_back(project: Path) -> None:
    """Once is enough; to unpin gives the bytes that were there; the mode stays."""
    (project / "compose.yml").chmod(0o640)
    first, again = pin(project, "--write"), pin(project, "--write")
    there = (project / "compose.yml").read_text()
    back = pin(project, "--unpin", "--write")

    assert (first.code, again.code, back.code) == (0, 0, 0)
    assert there == COMPOSE.replace("1.25", f"1.25@{NGINX}").replace("redis", f"redis@{REDIS}")
    assert again.err == "2 references: 2 unchanged\n0 files written\n"
    assert (project / "compose.yml").read_text() == COMPOSE
    assert stat.S_IMODE((project / "compose.yml").stat().st_mode) == 0o640


def test_what_was_pinned_without_a_tag_is_still_known_to_the_lock(project: Path) -> None:
    """`redis@sha256:...` is what became of `redis`; verify agrees, and follows the lock to another digest."""
    pin(project, "--write")
    gate = program.call("verify", "--offline", "--project", project)
    locked(project, **{"redis:latest": Digest.of(b"newer")})
    moved = program.call("verify", "--offline", "--project", project, "--json")
    pin(project, "--write")

    assert gate.code == 0
    assert [found["status"] for found in moved.json["results"]] == ["holds", "disagrees"]
    assert f"redis@{Digest.of(b'newer')}" in (project / "compose.yml").read_text()


def test_a_file_is_printed_whole_for_kubectl(tmp_path: Path) -> None:
    """A folder's manifests are one stream, those without images too; the files stay."""
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: nginx:1.25}]}\n"
    root = locked(written(tmp_path, {"k8s/a.yaml": "apiVersion: v1\nkind: Namespace\n", "k8s/b.yaml": pod}))
    told = pin(root, "--stdout", root / "k8s")
    read = list(yaml.safe_load_all(told.out))

    assert told.code == 0
    assert [document["kind"] for document in read] == ["Namespace", "Pod"]
    assert read[1]["spec"]["containers"][0]["image"] == f"nginx:1.25@{NGINX}"
    assert (root / "k8s/b.yaml").read_text() == pod


def test_nothing_is_printed_for_kubectl_when_a_digest_is_missing(tmp_path: Path) -> None:
    """Half a pinned stream would be applied."""
    pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx:1.25}, {image: unknown:1}]}\n"
    root = locked(written(tmp_path, {"pod.yaml": pod}))
    told = pin(root, "--stdout", root / "pod.yaml")

    assert (told.code, told.out) == (1, "")
    assert "unknown:1: not-locked: is not in boltseal.lock" in told.err
    assert "nothing is printed: a reference would be left without its digest" in told.err


def test_a_broken_file_is_named_and_nothing_is_written(project: Path) -> None:
    """With its line; the rest is shown all the same in --json."""
    written(project, {"deploy/compose.yml": "services: {web: {image: nginx:1.25\n"})
    told = pin(project, "--write")
    as_json = pin(project, "--json")

    assert (told.code, as_json.code) == (3, 3)
    assert "deploy/compose.yml:2: is not YAML" in told.err
    assert "nothing is written: a file could not be read" in told.err
    assert (project / "compose.yml").read_text() == COMPOSE
    assert [found["status"] for found in as_json.json["results"]] == ["pinned", "pinned", "unreadable"]


def test_what_has_no_place_is_left_and_named(project: Path) -> None:
    """The others are written, and the exit code says that not all hold."""
    written(project, {"compose.yml": COMPOSE.replace("redis", "redis${TAG}")})
    told = pin(project, "--write")

    assert told.code == 1
    assert "compose.yml:4: redis${TAG}: no-place: its end depends on a variable" in told.err
    assert (
        "digests without a place in these files can be in a file beside them: `boltseal lock --emit compose-override`"
        in told.err
    )
    assert f"nginx:1.25@{NGINX}" in (project / "compose.yml").read_text()


def test_a_service_that_is_built_here_is_left_alone(project: Path) -> None:
    """It is no failure."""
    written(project, {"compose.yml": "services: {own: {build: ., image: nginx:1.25}}\n"})
    told = pin(project, "--json")

    assert (told.code, [found["status"] for found in told.json["results"]]) == (0, ["local-build"])


def test_a_charts_templates_are_reported_by_every_command(project: Path) -> None:
    """The notes have file and line; they are failures only with --strict, and excluded files are not read."""
    written(project, {"Chart.yaml": "apiVersion: v2\n", "templates/a.yaml": "x:\n  image: {{ .Values.image }}\n"})
    written(project, {"compose.yml": f"services: {{web: {{image: 'nginx:1.25@{NGINX}'}}}}\n"})
    told = {verb: program.call(*verb.split(), "--project", project) for verb in ("pin", "verify --offline")}
    told |= {flag: program.call("verify", "--offline", flag, "--project", project) for flag in ("--github", "--strict")}
    result = program.call("verify", "--offline", "--json", "--project", project).json["results"][-1]
    written(project, {".boltseal.toml": '[lock]\nexclude = ["templates/"]\n'})
    excluded = program.call("verify", "--offline", "--strict", "--project", project)

    assert [run.code for run in (*told.values(), excluded)] == [0, 0, 0, 1, 0]
    assert "templates/a.yaml:2: " in told["pin"].err
    assert "templates/a.yaml:2: " in told["verify --offline"].out
    assert "::warning file=templates/a.yaml,line=2::" in told["--github"].out
    assert (result["status"], result["weight"], result["line"]) == ("template", "note", 2)


def test_what_the_project_excludes_is_left_alone(project: Path) -> None:
    """Also by the proof, which reads all of it again."""
    written(project, {"docs/compose.yml": COMPOSE, ".boltseal.toml": '[lock]\nexclude = ["docs/"]\n'})
    told = pin(project, "--write")

    assert told.code == 0
    assert (project / "docs/compose.yml").read_text() == COMPOSE
    assert str(NGINX) in (project / "compose.yml").read_text()


@pytest.mark.parametrize(
    "flags", [("--stdout",), ("--stdout", "--write", "compose.yml"), ("--stdout", "--json", "compose.yml")]
)
def test_flags_that_exclude_each_other_are_refused(project: Path, flags: tuple[str, ...]) -> None:
    """Before anything is read."""
    told = pin(project, *flags)

    assert (told.code, "--stdout needs PATH" in told.err) == (2, True)


def test_a_hostile_file_does_not_write_to_the_terminal(project: Path) -> None:
    """Control characters next to an image are shown, not sent; YAML allows few, Dockerfiles all."""
    written(project, {"compose.yml": 'services: {web: {image: nginx:1.25}} # "\u202e"\n'})
    written(project, {"Dockerfile": "# \x1b[31m\u009b31m\nFROM nginx:1.25\n"})
    told = pin(project)

    assert told.code == 0
    assert "\\x1b[31m\\x9b31m" in told.out
    assert "\\u202e" in told.out
    assert not {"\x1b", "\u009b", "\u202e"} & set(told.out)


@pytest.mark.slow
async def test_without_a_lock_tags_are_pinned_to_their_current_digests(server: Server, tmp_path: Path) -> None:
    """By one HEAD each; what is pinned already is left; a registry that was not allowed is not asked, and nothing written."""
    document = image("app")
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, "shop/pinned", "latest", document)).status_code == 201
    name = f"{server.address}/shop/pinned"
    root = written(tmp_path, {"Dockerfile": f"FROM {name} AS a\nFROM {name}:latest@{NGINX}\n"})
    environment = {"HOME": str(tmp_path / "nobody"), "XDG_CONFIG_HOME": str(tmp_path / "nobody")}
    told = program.call("pin", "--write", "--project", root, environment=environment)
    after = (root / "Dockerfile").read_text()
    written(root, {"Dockerfile": "FROM evil.invalid/x:1\n"})
    refused = program.call("pin", "--write", "--project", root, environment=environment)

    assert told.code == 0
    assert after == f"FROM {name}@{document.digest} AS a\nFROM {name}:latest@{NGINX}\n"
    assert (refused.code, "evil.invalid is not contacted" in refused.err) == (3, True)
    assert (root / "Dockerfile").read_text() == "FROM evil.invalid/x:1\n"


def emit(project: Path, kind: str, *more: str) -> Run:
    """`boltseal lock --emit`."""
    return program.call("lock", "--emit", kind, "--project", project, *more)


def test_a_lock_is_emitted_as_an_override(project: Path) -> None:
    """The override serves projects whose files must not be edited."""
    told = emit(project, "compose-override")

    assert told.code == 0
    assert yaml.safe_load(told.out)["services"] == {
        "cache": {"image": f"redis@{REDIS}"},
        "web": {"image": f"nginx:1.25@{NGINX}"},
    }


def test_a_lock_is_emitted_as_a_policy_and_a_component(project: Path) -> None:
    """Each holds the files of its kind."""
    pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx:1.25}]}\n"
    written(project, {"Dockerfile": "FROM redis\n", "pod.yaml": pod})
    policy, component = emit(project, "buildkit-source-policy"), emit(project, "kustomize")

    assert json.loads(policy.out)["rules"][0]["updates"]["identifier"].endswith(f"/redis:latest@{REDIS}")
    assert yaml.safe_load(component.out)["images"] == [{"name": "nginx", "newTag": f"1.25@{NGINX}"}]


def test_a_file_that_can_not_be_read_holds_everything_back(project: Path) -> None:
    """What is in it would be deployed by its tag, unnoticed."""
    written(project, {"deploy/compose.yml": "services: {web: {image: nginx:1.25\n"})
    told = emit(project, "compose-override")

    assert (told.code, told.out) == (3, "")
    assert "deploy/compose.yml:2: is not YAML" in told.err


def test_the_whole_project_can_be_printed(tmp_path: Path) -> None:
    """A dot is all of it, and not nothing; what is beside the manifests is left out as kubectl leaves it out."""
    root = locked(written(tmp_path, {"pod.yaml": POD}))
    told = pin(root, "--stdout", root)

    assert (told.code, told.out) == (0, POD.replace("nginx:1.25", f"nginx:1.25@{NGINX}"))
    assert told.err == "1 reference: 1 pinned\n1 file printed with other digests\n"


def test_an_unreadable_file_is_reported_and_nothing_is_printed(tmp_path: Path) -> None:
    """kubectl would read the file as well, so the output would be incomplete without it."""
    root = locked(written(tmp_path, {"pod.yaml": POD, "z.json": b"\xff"}))
    told = pin(root, "--stdout", root)

    assert (told.code, told.out) == (3, "")
    assert "z.json:1: is not UTF-8: unexpected byte 0xff; nothing is printed" in told.err


@pytest.mark.parametrize("verb", ["lock", "pin", "verify"])
def test_a_name_that_is_too_long_is_not_there(project: Path, verb: str) -> None:
    """The system refuses to look for it, which is no defect of ours."""
    told = program.call(verb, "--project", project, "x" * 300)
    there = program.call(verb, "--project", "x" * 300)

    assert (told.code, there.code) == (2, 2)
    assert "xxx: no such file or folder; check the path" in told.err
    assert '" is not a folder; expected the folder of a project in --project' in there.err


def test_a_file_name_that_is_no_text_is_escaped_in_json(tmp_path: Path) -> None:
    """The bytes of the name are escaped, so that the output is valid JSON."""
    root = locked(tmp_path)
    (root / os.fsdecode(b"\xff.yaml")).write_text(POD)
    told = pin(root, "--json")

    assert told.code == 0
    assert r'"file": "\udcff.yaml"' in told.out
    assert told.out.encode().decode() == told.out
