"""`boltseal pin` and `boltseal lock --emit` on projects with a lock, or without one and with a listening registry."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
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
from tests.cli.terminal import output_on_terminal
from tests.images import image, push
from tests.project.projects import written
from tests.servers import Server

NGINX, REDIS = Digest.of(b"nginx"), Digest.of(b"redis")
POD = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: web, image: nginx:1.25}]}\n"
COMPOSE = "services:\n  web: {image: nginx:1.25}   # ours\n  cache:\n    image: redis\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Compose file, and a lock of its images."""
    return locked(written(tmp_path, {"compose.yml": COMPOSE}))


def locked(root: Path, **images: Digest | None) -> Path:
    """The project with a lock of these images, by default of nginx:1.25 and redis:latest."""
    known = {"nginx:1.25": NGINX, "redis:latest": REDIS, **images}
    lock = sorted_lock(
        [LockedImage(Reference.parse(name), digest, 1_764_000_000_000_000) for name, digest in known.items()], {}
    )
    (root / LOCK_NAME).write_text(format_lock(lock))
    return root


def pin(project: Path, *more: str | Path) -> Run:
    """Run `boltseal pin` in this process."""
    return program.call("pin", "--project", project, *more)


def test_without_write_the_difference_is_shown_and_nothing_changed(project: Path) -> None:
    """Without --write, `pin` prints a patch on stdout as `git diff` does, and changes nothing."""
    result = pin(project)

    assert result.code == 0
    assert result.out.splitlines()[:5] == [
        "--- a/compose.yml",
        "+++ b/compose.yml",
        "@@ -1,4 +1,4 @@",
        " services:",
        "-  web: {image: nginx:1.25}   # ours",
    ]
    assert f"+  web: {{image: nginx:1.25@{NGINX}}}   # ours" in result.out
    assert result.err == "2 references: 2 pinned\n1 file would change: --write writes them\n"
    assert (project / "compose.yml").read_text() == COMPOSE


def test_written_files_have_the_locked_digests_and_can_be_unpinned(project: Path) -> None:
    """Pinning twice changes nothing more; unpinning restores the original bytes; the mode stays."""
    (project / "compose.yml").chmod(0o640)
    first, again = pin(project, "--write"), pin(project, "--write")
    there = (project / "compose.yml").read_text()
    back = pin(project, "--unpin", "--write")

    assert (first.code, again.code, back.code) == (0, 0, 0)
    assert there == COMPOSE.replace("1.25", f"1.25@{NGINX}").replace("redis", f"redis@{REDIS}")
    assert again.err == "2 references: 2 unchanged\n0 files written\n"
    assert (project / "compose.yml").read_text() == COMPOSE
    assert stat.S_IMODE((project / "compose.yml").stat().st_mode) == 0o640


def test_a_reference_pinned_without_a_tag_matches_the_lock(project: Path) -> None:
    """`redis@sha256:...`, the pinned form of `redis`, matches the lock's entry: verify accepts it, and pin updates it."""
    pin(project, "--write")
    gate = program.call("verify", "--offline", "--project", project)
    locked(project, **{"redis:latest": Digest.of(b"newer")})
    moved = program.call("verify", "--offline", "--project", project, "--json")
    pin(project, "--write")

    assert gate.code == 0
    assert [found["status"] for found in moved.json["results"]] == ["holds", "disagrees"]
    assert f"redis@{Digest.of(b'newer')}" in (project / "compose.yml").read_text()


def test_a_file_is_printed_whole_for_kubectl(tmp_path: Path) -> None:
    """`pin --stdout` prints all manifests of a folder as one stream, those without images too, and edits no file."""
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: nginx:1.25}]}\n"
    root = locked(written(tmp_path, {"k8s/a.yaml": "apiVersion: v1\nkind: Namespace\n", "k8s/b.yaml": pod}))
    result = pin(root, "--stdout", root / "k8s")
    read = list(yaml.safe_load_all(result.out))

    assert result.code == 0
    assert [document["kind"] for document in read] == ["Namespace", "Pod"]
    assert read[1]["spec"]["containers"][0]["image"] == f"nginx:1.25@{NGINX}"
    assert (root / "k8s/b.yaml").read_text() == pod


def test_nothing_is_printed_for_kubectl_when_a_digest_is_missing(tmp_path: Path) -> None:
    """If a digest is missing, nothing is printed, because kubectl would apply a partly pinned stream."""
    pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx:1.25}, {image: unknown:1}]}\n"
    root = locked(written(tmp_path, {"pod.yaml": pod}))
    result = pin(root, "--stdout", root / "pod.yaml")

    assert (result.code, result.out) == (1, "")
    assert "unknown:1: not-locked: is not in boltseal.lock" in result.err
    assert "nothing is printed: a reference would be left without its digest" in result.err


def test_a_broken_file_is_named_and_nothing_is_written(project: Path) -> None:
    """A broken file is named with its line and nothing is written; JSON still shows the other files."""
    written(project, {"deploy/compose.yml": "services: {web: {image: nginx:1.25\n"})
    result = pin(project, "--write")
    as_json = pin(project, "--json")

    assert (result.code, as_json.code) == (3, 3)
    assert "deploy/compose.yml:2: is not YAML" in result.err
    assert "nothing is written: a file could not be read" in result.err
    assert (project / "compose.yml").read_text() == COMPOSE
    assert [found["status"] for found in as_json.json["results"]] == ["pinned", "pinned", "unreadable"]


def test_a_reference_that_can_not_be_pinned_is_left_and_named(project: Path) -> None:
    """A reference that can't be pinned is left and named; the others are written, and the exit code is 1."""
    written(project, {"compose.yml": COMPOSE.replace("redis", "redis${TAG}")})
    result = pin(project, "--write")

    assert result.code == 1
    assert "compose.yml:4: redis${TAG}: no-place: its end depends on a variable" in result.err
    assert (
        "digests without a place in these files can be in a file beside them: `boltseal lock --emit compose-override`"
        in result.err
    )
    assert f"nginx:1.25@{NGINX}" in (project / "compose.yml").read_text()


@pytest.mark.parametrize("name", [str(NGINX), NGINX.hex])
def test_an_image_id_is_a_local_image(project: Path, name: str) -> None:
    """`image: sha256:<id>` names an image of one machine: it is neither locked nor pinned, and verified as local."""
    written(project, {"compose.yml": f"services: {{web: {{image: nginx:1.25}}, own: {{image: '{name}'}}}}\n"})
    pinned = pin(project, "--json").json["results"]
    verified = program.call("verify", "--offline", "--project", project, "--json")
    emitted = program.call("lock", "--emit", "compose-override", "--project", project)

    assert [(row["ref"], row["status"]) for row in pinned] == [
        ("docker.io/library/nginx:1.25", "pinned"),
        (name, "local-build"),
    ]
    assert [row["status"] for row in verified.json["results"]] == ["not-pinned", "local-build"]
    assert (verified.code, emitted.code) == (0, 0)
    assert f"nginx:1.25@{NGINX}" in emitted.out
    assert "own" not in emitted.out


def test_a_service_that_is_built_locally_is_left_alone(project: Path) -> None:
    """A service that is built locally is left unpinned without a failure if the lock has no digest of its image."""
    text = "services: {own: {build: ., image: 'shop/own:1'}, new: {build: ., image: 'shop/new:1'}}\n"
    written(locked(project, **{"shop/own:1": None}), {"compose.yml": text})
    result = pin(project, "--json")

    assert (result.code, [found["status"] for found in result.json["results"]]) == (0, ["local-build"] * 2)


def test_the_locked_image_of_a_service_with_a_build_is_pinned(project: Path) -> None:
    """An image beside a build is pinned if the lock has its digest, and unpinned to the same bytes."""
    text = "services:\n  own: {build: ., image: nginx:1.25}\n  cache: {build: ., image: redis}\n"
    written(project, {"compose.yml": text})
    result = pin(project, "--write")
    there = (project / "compose.yml").read_text()
    back = pin(project, "--unpin", "--write")

    assert (result.code, back.code) == (0, 0)
    assert there == text.replace("nginx:1.25", f"nginx:1.25@{NGINX}").replace("redis}", f"redis@{REDIS}}}")
    assert (project / "compose.yml").read_text() == text


def test_a_charts_templates_are_reported_by_every_command(project: Path) -> None:
    """References in chart templates are notes with file and line, failures only with --strict, and skipped if excluded."""
    written(project, {"Chart.yaml": "apiVersion: v2\n", "templates/a.yaml": "x:\n  image: {{ .Values.image }}\n"})
    written(project, {"compose.yml": f"services: {{web: {{image: 'nginx:1.25@{NGINX}'}}}}\n"})
    fields = {verb: program.call(*verb.split(), "--project", project) for verb in ("pin", "verify --offline")}
    fields |= {
        flag: program.call("verify", "--offline", flag, "--project", project) for flag in ("--github", "--strict")
    }
    result = program.call("verify", "--offline", "--json", "--project", project).json["results"][-1]
    written(project, {".boltseal.toml": '[lock]\nexclude = ["templates/"]\n'})
    excluded = program.call("verify", "--offline", "--strict", "--project", project)

    assert [run.code for run in (*fields.values(), excluded)] == [0, 0, 0, 1, 0]
    assert "templates/a.yaml:2: " in fields["pin"].err
    assert "templates/a.yaml:2: " in fields["verify --offline"].out
    assert "::warning file=templates/a.yaml,line=2::" in fields["--github"].out
    assert (result["status"], result["weight"], result["line"]) == ("template", "note", 2)


def test_excluded_files_are_left_alone(project: Path) -> None:
    """Excluded files are left alone, also when pin reads all files again to prove its result."""
    written(project, {"docs/compose.yml": COMPOSE, ".boltseal.toml": '[lock]\nexclude = ["docs/"]\n'})
    result = pin(project, "--write")

    assert result.code == 0
    assert (project / "docs/compose.yml").read_text() == COMPOSE
    assert str(NGINX) in (project / "compose.yml").read_text()


def test_only_digests_that_pin_wrote_are_removed(project: Path) -> None:
    """`--unpin` restores a replaced digest, leaves one of another tool with a notice, and removes all with --all."""
    foreign = f"services: {{a: {{image: nginx:1.25@{REDIS}}}, b: {{image: redis@{REDIS}}}}}\n"
    written(project, {"compose.yml": foreign})
    first = pin(project, "--write")
    lock = (project / LOCK_NAME).read_text()
    shown = pin(project, "--unpin", "--json").json["results"]
    back = pin(project, "--unpin", "--write")
    text = (project / "compose.yml").read_text()
    every = pin(project, "--unpin", "--all", "--write")

    assert (first.code, back.code, every.code) == (0, 0, 0)
    assert f'at = "services.a.image", digest = "{NGINX}", replaced = "{REDIS}"' in lock
    assert [(row["status"], row["digest"]) for row in shown] == [("unpinned", str(REDIS)), ("foreign", None)]
    assert text == foreign
    assert "a foreign digest is not recorded as written by `boltseal pin`" in back.err
    assert "pins" not in (project / LOCK_NAME).read_text()
    assert (project / "compose.yml").read_text() == foreign.replace(f"@{REDIS}", "")


def test_the_patch_records_in_the_lock_what_it_writes(project: Path) -> None:
    """The printed patch changes the lock as `pin --write` does, so that unpinning works after `git apply` too."""
    patch = pin(project).out
    subprocess.run(
        ["git", "apply", "-"],
        cwd=project,
        input=patch.encode(),
        env={"HOME": str(project), "PATH": os.defpath},
        check=True,
    )
    applied = {name: (project / name).read_bytes() for name in ("compose.yml", LOCK_NAME)}
    back = pin(project, "--unpin", "--write")
    restored = (project / "compose.yml").read_text()
    pin(project, "--write")

    assert {name: (project / name).read_bytes() for name in applied} == applied
    assert b"version = 2" in applied[LOCK_NAME]
    assert (back.code, restored) == (0, COMPOSE)


def test_without_a_lock_nothing_is_known_to_be_ours(project: Path) -> None:
    """Without a lock no digest is recorded as written: `--unpin` leaves all of them, and says how to remove them."""
    pin(project, "--write")
    (project / LOCK_NAME).unlink()
    before = (project / "compose.yml").read_bytes()
    kept = pin(project, "--unpin", "--write")
    pinned = (project / "compose.yml").read_bytes()
    removed = pin(project, "--unpin", "--all", "--write")

    assert (kept.code, removed.code, pinned == before) == (0, 0, True)
    assert "2 references: 2 foreign" in kept.err
    assert (project / "compose.yml").read_text() == COMPOSE
    assert pin(project, "--all").code == 2


def test_a_lock_that_can_not_be_replaced_leaves_the_files(project: Path) -> None:
    """Files and lock are written together or not at all."""
    written(project, {"sub/compose.yml": COMPOSE})
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    (project / LOCK_NAME).write_text((project / LOCK_NAME).read_text().replace("version = 1", "version = 9"))
    result = pin(project, "--write")

    assert result.code == 2
    assert "use a newer boltseal" in result.err
    assert {path: path.read_bytes() for path in before if path.name != LOCK_NAME} == {
        path: content for path, content in before.items() if path.name != LOCK_NAME
    }


@pytest.mark.parametrize(
    "flags", [("--stdout",), ("--stdout", "--write", "compose.yml"), ("--stdout", "--json", "compose.yml")]
)
def test_flags_that_exclude_each_other_are_refused(project: Path, flags: tuple[str, ...]) -> None:
    """Contradicting options are refused before any file is read."""
    result = pin(project, *flags)

    assert (result.code, "--stdout needs PATH" in result.err) == (2, True)


HOSTILE = "# \x1b[31m\u009b31m \u202e\r\nFROM nginx:1.25"


def test_a_hostile_file_does_not_write_to_the_terminal(project: Path) -> None:
    """On a terminal, control characters next to an image are escaped."""
    written(project, {"Dockerfile": HOSTILE})
    shown = output_on_terminal("pin", "--project", project)

    assert "\\x1b[31m\\x9b31m \\u202e\\r\n" in shown
    assert f"+FROM nginx:1.25@{NGINX}\n" in shown
    assert not {"\x1b", "\u009b", "\u202e", "\r"} & set(shown)


def test_git_applies_what_pin_prints(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`boltseal pin | git apply` gives the bytes of `pin --write`, also with control characters and no last line end."""
    written(project, {"Dockerfile": HOSTILE})
    copy = Path(shutil.copytree(project, tmp_path_factory.mktemp("copy"), dirs_exist_ok=True))
    patch = subprocess.run(
        [sys.executable, "-m", "boltseal", "pin", "--project", copy], capture_output=True, check=True
    ).stdout
    subprocess.run(
        ["git", "apply", "-"], cwd=copy, input=patch, env={"HOME": str(copy), "PATH": os.defpath}, check=True
    )
    wrote = pin(project, "--write")

    assert wrote.code == 0
    for name in ("Dockerfile", "compose.yml"):
        assert (copy / name).read_bytes() == (project / name).read_bytes() != HOSTILE.encode()


@pytest.mark.slow
async def test_without_a_lock_tags_are_pinned_to_their_current_digests(server: Server, tmp_path: Path) -> None:
    """Without a lock each tag costs one HEAD; one that can't be resolved is exit code 3 and leaves the others pinned."""
    document = image("app")
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, "shop/pinned", "latest", document)).status_code == 201
    name = f"{server.address}/shop/pinned"
    root = written(tmp_path, {"Dockerfile": f"FROM {name} AS a\nFROM {name}:latest@{NGINX}\n"})
    environment = {"HOME": str(tmp_path / "empty-home"), "XDG_CONFIG_HOME": str(tmp_path / "nobody")}
    result = program.call("pin", "--write", "--project", root, environment=environment)
    after = (root / "Dockerfile").read_text()
    written(root, {"Dockerfile": f"FROM {name} AS a\nFROM evil.invalid/x:1\n"})
    refused = program.call("pin", "--write", "--project", root, environment=environment)

    assert result.code == 0
    assert after == f"FROM {name}@{document.digest} AS a\nFROM {name}:latest@{NGINX}\n"
    assert (refused.code, "evil.invalid is not contacted" in refused.err) == (3, True)
    assert (root / "Dockerfile").read_text() == f"FROM {name}@{document.digest} AS a\nFROM evil.invalid/x:1\n"


def emit(project: Path, kind: str, *more: str) -> Run:
    """Run `boltseal lock --emit`."""
    return program.call("lock", "--emit", kind, "--project", project, *more)


def test_a_lock_is_emitted_as_an_override(project: Path) -> None:
    """A Compose override has the lock's digests, for projects whose files must not be edited."""
    result = emit(project, "compose-override")

    assert result.code == 0
    assert yaml.safe_load(result.out)["services"] == {
        "cache": {"image": f"redis@{REDIS}"},
        "web": {"image": f"nginx:1.25@{NGINX}"},
    }


def test_a_lock_is_emitted_as_a_policy_and_a_component(project: Path) -> None:
    """The BuildKit policy has the Dockerfiles' images, the kustomize component those of the manifests."""
    pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: nginx:1.25}]}\n"
    written(project, {"Dockerfile": "FROM redis\n", "pod.yaml": pod})
    policy, component = emit(project, "buildkit-source-policy"), emit(project, "kustomize")

    assert json.loads(policy.out)["rules"][0]["updates"]["identifier"].endswith(f"/redis:latest@{REDIS}")
    assert yaml.safe_load(component.out)["images"] == [{"name": "nginx", "newTag": f"1.25@{NGINX}"}]


def test_an_unreadable_file_prevents_the_output(project: Path) -> None:
    """If one file can't be read, nothing is emitted, because its images would be deployed by tag."""
    written(project, {"deploy/compose.yml": "services: {web: {image: nginx:1.25\n"})
    result = emit(project, "compose-override")

    assert (result.code, result.out) == (3, "")
    assert "deploy/compose.yml:2: is not YAML" in result.err


def test_the_whole_project_can_be_printed(tmp_path: Path) -> None:
    """`.` prints the whole project; other files beside the manifests are left out, as kubectl does."""
    root = locked(written(tmp_path, {"pod.yaml": POD}))
    result = pin(root, "--stdout", root)

    assert (result.code, result.out) == (0, POD.replace("nginx:1.25", f"nginx:1.25@{NGINX}"))
    assert result.err == "1 reference: 1 pinned\n1 file printed with other digests\n"


def test_an_unreadable_file_is_reported_and_nothing_is_printed(tmp_path: Path) -> None:
    """If one file can't be read, nothing is printed, since kubectl would read that file as well."""
    root = locked(written(tmp_path, {"pod.yaml": POD, "z.json": b"\xff"}))
    result = pin(root, "--stdout", root)

    assert (result.code, result.out) == (3, "")
    assert "z.json:1: is not UTF-8: unexpected byte 0xff; nothing is printed" in result.err


@pytest.mark.parametrize("verb", ["lock", "pin", "verify"])
def test_a_file_name_that_is_too_long_is_not_found(project: Path, verb: str) -> None:
    """A file name that is too long for the system is a missing file, not a defect."""
    result = program.call(verb, "--project", project, "x" * 300)
    there = program.call(verb, "--project", "x" * 300)

    assert (result.code, there.code) == (2, 2)
    assert "xxx: no such file or folder; check the path" in result.err
    assert '" is not a folder; expected the folder of a project in --project' in there.err


def test_a_file_name_that_is_no_text_is_escaped_in_json(tmp_path: Path) -> None:
    """File names that are not UTF-8 are escaped, so that JSON stays valid."""
    root = locked(tmp_path)
    (root / os.fsdecode(b"\xff.yaml")).write_text(POD)
    result = pin(root, "--json")

    assert result.code == 0
    assert r'"file": "\udcff.yaml"' in result.out
    assert result.out.encode().decode() == result.out


def test_a_base_that_a_build_argument_selects_is_pinned_by_a_source_policy(project: Path) -> None:
    """For an image in `build.args`, pin names the source policy, because an override can't set it."""
    compose = 'services:\n  web:\n    build: {context: ., args: {BASE: "nginx:1.25"}}\n'
    written(project, {"compose.yml": compose, "Dockerfile": "ARG BASE\nFROM $BASE\n"})
    result = pin(project)

    assert "`boltseal lock --emit buildkit-source-policy`" in result.err
    assert "compose-override" not in result.err


def test_a_rule_that_leaves_nothing_out_is_named(project: Path) -> None:
    """A `[[lock.ignore]]` that matches nothing is named, since it may be misspelled; one that matches is not."""
    rules = '[[lock.ignore]]\nreference = "{}"\nreason = "x"\n'
    written(project, {"compose.yml": COMPOSE, ".boltseal.toml": rules.format("redis*") + rules.format("postgre*")})
    result = pin(project)

    assert '[[lock.ignore]] with reference = "postgre*" matches no reference; remove it' in result.err
    assert 'reference = "redis*" leaves' not in result.err


def test_an_unused_rule_is_a_notice_in_json(project: Path) -> None:
    """--json has a row for a `[[lock.ignore]]` that matches nothing, and the exit code does not depend on it."""
    rule = '[[lock.ignore]]\nreference = "postgre*"\nreason = "x"\n'
    written(project, {"compose.yml": COMPOSE, ".boltseal.toml": rule})
    result = pin(project, "--json")
    without = pin(written(project, {".boltseal.toml": ""}), "--json")
    [row] = [row for row in result.json["results"] if row["status"] == "unused-rule"]

    assert (row["ref"], result.code) == ("postgre*", without.code)


def test_findings_fit_the_terminal(project: Path) -> None:
    """On a terminal of 80 columns a finding is folded between words; a program gets it as one line."""
    compose = f"services: {{web: {{image: 'redis:${{TAG}}'}}, db: {{image: 'x/{'y' * 30}:1@sha256:{'0' * 64}'}}}}\n"
    written(project, {"compose.yml": compose})
    words = ("verify", "--project", project, "--offline")
    shown, plain = output_on_terminal(*words), program.run(*words).out

    assert all(len(line) <= 80 or " " not in line.strip() for line in shown.splitlines())
    assert [line for line in plain.splitlines() if len(line) > 80]
    assert " ".join(shown.split()) == " ".join(plain.split())
