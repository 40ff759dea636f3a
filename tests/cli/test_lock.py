"""`boltseal lock` and `verify` on a project, with a listening registry."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from boltseal.lockfile.parse import parse_lock
from tests.cli import program
from tests.cli.program import Run
from tests.fakes.upstream import FakeUpstream
from tests.images import Document, image, index, push
from tests.ports import free_port
from tests.project.projects import written
from tests.servers import Server

SHOP = "shop/app"


pytestmark = pytest.mark.slow


async def publish(server: Server, tag: str, document: Document, repository: str = SHOP) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, repository, tag, document)).status_code == 201


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def compose(project: Path, **services: str) -> None:
    lines = ["services:", *(f"  {name}:\n    image: {text}" for name, text in services.items())]
    (project / "compose.yaml").write_text("\n".join(lines) + "\n")


def lock(project: Path, *more: str) -> Run:
    return program.call("lock", *more, cwd=project)


def verify(project: Path, *more: str) -> Run:
    return program.call("verify", *more, cwd=project)


def trust(server: Server, project: Path) -> str:
    """Pin the server's ledger key on this machine, and return it."""
    key = program.call("ledger", "key", "--data", project.parent / "data").out.strip()
    assert program.call("ledger", "trust", server.address, key).code == 0
    return key


async def test_a_project_is_locked_and_verified(server: Server, project: Path) -> None:
    """The lock has each image's digest on each platform; locking again changes no byte."""
    app = index(image("app amd64"), image("app arm64"))
    await publish(server, "1.4.2", app)
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    (project / "Dockerfile").write_text(f"FROM {server.address}/{SHOP}:1.4.2 AS base\n")
    result = program.run("lock", cwd=project)
    written = (project / "boltseal.lock").read_bytes()
    again = lock(project)
    (found,) = parse_lock(written).images

    assert (result.code, again.code) == (0, 0)
    assert result.out == f"added        {server.address}/{SHOP}:1.4.2  {app.digest}\n"
    assert "boltseal.lock: 1 image, unchanged" in again.err
    assert (project / "boltseal.lock").read_bytes() == written
    assert {str(each.image) for each in found.platforms} == {child.config.digest for child in app.children}
    assert [use.file for use in found.used] == ["Dockerfile", "compose.yaml"]
    assert verify(project).code == 0


async def test_the_lock_has_the_ledger_entry_and_the_pinned_key(server: Server, project: Path) -> None:
    """With a pinned key the lock has key and ledger entry; a later run changes no byte, whatever was pushed meanwhile."""
    await publish(server, "1.4.2", image("app"))
    key = trust(server, project)
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    result, written = lock(project), (project / "boltseal.lock").read_bytes()
    await publish(server, "1.4.3", image("other"))
    lock(project)
    found = parse_lock(written)

    assert result.code == 0
    assert dict(found.keys) == {server.address: key}
    assert [one.entry for one in found.images] == [2]
    assert (project / "boltseal.lock").read_bytes() == written


async def test_a_moved_mutable_tag_is_reported_with_from_to_and_time(server: Server, project: Path) -> None:
    """lock and verify report a moved mutable tag with both digests and the time; --update accepts it."""
    older, newer = image("older"), image("newer")
    await publish(server, "latest", older)
    compose(project, web=f"{server.address}/{SHOP}:latest")
    lock(project)
    await publish(server, "latest", newer)
    gate, relocked = verify(project, "--json"), lock(project)
    (verdict,) = gate.json["results"]

    assert (gate.code, verdict["status"], verdict["sealed"]) == (1, "moved", False)
    assert (verdict["expected"], verdict["resolves_to"]) == (older.digest, newer.digest)
    assert (verdict["file"], verdict["line"], verdict["at"]) == ("compose.yaml", 3, "services.web.image")
    assert f"on {verdict['moved_at']} (" in verdict["reason"]
    assert (verdict["sealed_by"], verdict["entry"]) == ("ledger", 3)
    assert verdict["moved_at"] >= verdict["locked_at"]
    assert relocked.code == 0
    assert "kept: take it with `boltseal lock --update" in relocked.out
    assert lock(project, "--update", f"{server.address}/{SHOP}:latest").code == 0
    assert verify(project).code == 0


async def test_a_pinned_file_is_up_to_date_though_its_floating_tag_moved(server: Server, project: Path) -> None:
    """A pinned reference whose tag moved is up to date with a note, and fails with --strict."""
    older = image("older")
    await publish(server, "latest", older)
    compose(project, web=f"{server.address}/{SHOP}:latest@{older.digest}")
    lock(project)
    await publish(server, "latest", image("newer"))
    noted = verify(project)
    trust(server, project)

    assert noted.code == 0
    assert "the pin is still valid" in noted.out
    assert verify(project, "--strict").code == 1
    assert verify(project, "--offline", "--strict").code == 0


def test_project_and_user_say_which_tags_are_rebuilt(project: Path) -> None:
    """`[[verify.tags]]` of the project and `[[tags]]` of the user say which releases are rebuilt; the user's come first."""
    older, newer = image("older"), image("newer")
    settings = project.parent / "empty-home/boltseal/boltseal.toml"
    settings.parent.mkdir(parents=True)
    with FakeUpstream().listening_in_thread() as upstream:
        upstream.publish("team/app", "1.4.2", older)
        compose(project, web=f"{upstream.authority}/team/app:1.4.2@{older.digest}")
        codes = [lock(project).code]
        upstream.publish("team/app", "1.4.2", newer)
        codes.append(verify(project).code)
        (project / ".boltseal.toml").write_text(
            f"[[verify.tags]]\nrepository = '{upstream.authority}/**'\nexpect = 'rebuilt'"
        )
        noted = verify(project)
        settings.write_text(f"[[tags]]\nrepository = '{upstream.authority}/team/*'\nexpect = 'immutable'\n")
        codes += [noted.code, verify(project).code]

    assert codes == [0, 1, 0, 1]
    assert "its tag, which is rebuilt by custom, moved from" in noted.out


@pytest.mark.parametrize("text", ["[verify]\ntags = 3", "[[verify.tags]]\nrepository = 'app'\nexpect = 'moving'"])
def test_an_invalid_table_of_tags_is_refused(project: Path, text: str) -> None:
    """An invalid `[[verify.tags]]`, or `[[tags]]` of the user, is exit code 2 with what is expected."""
    (project / ".boltseal.toml").write_text(text)
    settings = project.parent / "empty-home/boltseal/boltseal.toml"
    refused = verify(project)
    (project / ".boltseal.toml").unlink()
    settings.parent.mkdir(parents=True)
    settings.write_text("[[tags]]\nrepository = 'a/b'\nexpect = 'never'\n")
    compose(project, web="nginx")

    assert (refused.code, ".boltseal.toml: " in refused.err) == (2, True)
    assert "[[tags]] 1: expect is" in verify(project).err


async def test_a_deleted_tag_is_reported_with_the_user_who_deleted_it(server: Server, project: Path) -> None:
    """For an unpinned reference, a deleted tag is exit code 1 and its history names the user; 1 takes precedence over
    3."""
    await publish(server, "latest", image("app"))
    other = f"127.0.0.1:{free_port()}/shop/app@sha256:{'0' * 64}"
    compose(project, web=f"{server.address}/{SHOP}:latest")
    lock(project)
    text = (project / "boltseal.lock").read_text()
    entry = (
        f'\n[[image]]\nreference = "{other}"\ndigest = "{other.partition("@")[2]}"\nfirst_seen = 2026-11-24T18:00:00Z\n'
    )
    (project / "boltseal.lock").write_text(text + entry)
    compose(project, web=f"{server.address}/{SHOP}:latest", other=other)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.delete(f"/v2/{SHOP}/manifests/latest")).status_code == 202
    result = verify(project, "--json")
    gone, unknown = result.json["results"]

    assert (result.code, result.json["outcome"]) == (1, "differs")
    assert (gone["status"], gone["moved_by"], gone["sealed"]) == ("gone", "anonymous", False)
    assert "it no longer exists" in gone["reason"]
    assert f"according to entry {gone['entry']} of its ledger" in gone["reason"]
    assert (unknown["status"], unknown["weight"]) == ("unknown", "unknown")
    assert "did not answer" in unknown["reason"]


async def test_a_sealed_tag_can_not_move(server: Server, project: Path) -> None:
    """A push to a sealed tag is refused, so verify stays successful."""
    await publish(server, "1.4.2", image("app"))
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    lock(project)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        refused = await push(client, SHOP, "1.4.2", image("other"))

    assert refused.status_code == 409
    assert verify(project).code == 0


async def test_a_reference_that_can_not_be_resolved_leaves_the_others_locked(server: Server, project: Path) -> None:
    """An unresolvable reference is listed with file and reason and exit code 3; the others are locked and verified."""
    await publish(server, "1.4.2", image("app"))
    name = f"{server.address}/{SHOP}"
    compose(project, web=f"{name}:1.4.2", worker=f"{name}:9.9.9", old="app:${{")
    ran, again = lock(project, "--json"), lock(project)
    found = parse_lock((project / "boltseal.lock").read_bytes())
    verified = verify(project, "--json")

    assert (ran.code, ran.json["outcome"], again.code) == (3, "unknown", 3)
    assert [(result["ref"], result["status"]) for result in ran.json["results"]] == [
        (f"{name}:1.4.2", "added"),
        (f"{name}:9.9.9", "unresolvable"),
        ("app:${{", "unresolvable"),
    ]
    assert "has no manifest 9.9.9" in ran.err
    assert "1 image, unchanged" in again.err
    assert "[[lock.ignore]] in .boltseal.toml leaves one out" in again.err
    assert [str(image.reference) for image in found.images] == [f"{name}:1.4.2"]
    assert [(row["written"], row["weight"]) for row in verified.json["results"] if row["weight"] != "note"] == [
        (f"{name}:9.9.9", "differs"),
        ("app:${{", "unknown"),
    ]


async def test_an_ignored_reference_is_reported_with_its_reason(server: Server, project: Path) -> None:
    """References and files that `[[lock.ignore]]` names are left out of lock, pin and verify, and reported with the reason."""
    await publish(server, "1.4.2", image("app"))
    name = f"{server.address}/{SHOP}"
    compose(project, web=f"{name}:1.4.2", worker=f"{name}:9.9.9", old="app:${{")
    written(project, {"broken/pod.yaml": "apiVersion: v1\nkind: [\n", "examples/Dockerfile": "FROM none.invalid/x\n"})
    written(
        project,
        {
            ".boltseal.toml": f"[[lock.ignore]]\nreference = '{name}:9.*'\nreason = 'made later'\n"
            "[[lock.ignore]]\nreference = 'app:$*'\nfile = 'compose.yaml'\nreason = 'old'\n"
            "[[lock.ignore]]\nfile = 'broken'\nreason = 'a test'\n[[lock.ignore]]\nfile = 'ex*'\nreason = 'an example'\n"
        },
    )
    locked, verified = lock(project, "--json"), verify(project, "--json")
    pinned = program.call("pin", "--write", cwd=project)

    assert (locked.code, verified.code, pinned.code) == (0, 0, 0), locked.err
    for run in (locked, verified):
        rows = [(row["ref"], row["reason"]) for row in run.json["results"] if row["status"] == "ignored"]
        assert sorted(rows) == sorted(
            [
                (f"{name}:9.9.9", "made later"),
                ("app:${{", "old"),
                ("", "a test"),
                ("none.invalid/x", "an example"),
            ]
        )
    assert f"compose.yaml:5: {name}:9.9.9: ignored: made later" in pinned.err
    assert (project / "compose.yaml").read_text().count("@sha256:") == 1


@pytest.mark.parametrize(
    ("rule", "ignored"),
    [
        ("reference = 'ghcr.io/shop/*'", True),
        ("reference = 'ghcr.io/shop/tool:1'\nfile = 'x.yaml'", True),
        ("file = 'x.yaml'", True),
        ("reference = 'shop/*'", False),
        ("reference = 'ghcr.io/shop/*'\nfile = 'y.yaml'", False),
        ("reference = 'ghcr.io/shop/tool:1@sha256:*'", True),
    ],
)
async def test_a_value_that_is_not_understood_is_ignored_by_its_text(
    server: Server, project: Path, rule: str, ignored: bool
) -> None:
    """`[[lock.ignore]]` leaves out a value that is not understood by its text, its reference and its file, also for --strict."""
    await publish(server, "1.4.2", image("app"))
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    digest = "@sha256:" + 64 * "a" if "@" in rule else ""
    written(project, {"x.yaml": f"thing:\n  baseImage: ghcr.io/shop/tool:1{digest}\n"})
    written(project, {".boltseal.toml": f"[[lock.ignore]]\n{rule}\nreason = 'an operator reads it'\n"})
    assert lock(project).code == 0
    verified = verify(project, "--json")

    rows = {(row["status"], row["file"], row["line"]) for row in verified.json["results"]}
    assert (("ignored", "x.yaml", 2) in rows) == ignored
    assert (("not-understood", "x.yaml", 2) in rows) != ignored


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[lock]\nignore = 3", "lock.ignore is no list of tables; write [[lock.ignore]], in two brackets"),
        ("[lock.ignore]\nreference = 'a'\nreason = 'b'", "write [[lock.ignore]], in two brackets"),
        ("[verify.tags]\nrepository = 'a'", "write [[verify.tags]], in two brackets"),
        ("[[lock.ignore]]\nreason = 'a'\n" * 501, "it has 501 tables [[lock.ignore]]; expected at most 500"),
        ("[lock]\nignore = [3]", '[[lock.ignore]] 1 is "3"; expected a table'),
        ("[[lock.ignore]]\nreference = 'a'", "[[lock.ignore]] 1 has no reason"),
        ("[[lock.ignore]]\nreason = 'a'", "[[lock.ignore]] 1 has neither a reference nor a file"),
        ("[[lock.ignore]]\nfile = ''\nreason = 'a'", '[[lock.ignore]] 1: file is ""; expected a text'),
        ("[[lock.ignore]]\nimage = 'a'", 'unknown key "image"; known keys: reference, file, reason'),
    ],
)
def test_an_invalid_table_of_ignored_references_is_refused(project: Path, table: str, message: str) -> None:
    """An invalid `[[lock.ignore]]` is exit code 2 with what is expected: it never ignores more than it says."""
    compose(project, web="nginx")
    (project / ".boltseal.toml").write_text(table)
    result = lock(project)

    assert result.code == 2
    assert message in result.err


async def test_a_broken_file_leaves_the_others_locked(server: Server, project: Path) -> None:
    """A file that can't be read is exit code 3; the others are locked, and what the lock has for that file stays."""
    for tag in ("1.0.0", "2.0.0"):
        await publish(server, tag, image(tag))
    name = f"{server.address}/{SHOP}"
    compose(project, web=f"{name}:1.0.0")
    pod = f"apiVersion: v1\nkind: Pod\nspec: {{containers: [{{name: a, image: '{name}:2.0.0'}}]}}\n"
    (project / "pod.yaml").write_text(pod)
    first = lock(project)
    before = parse_lock((project / "boltseal.lock").read_bytes())
    (project / "pod.yaml").write_text("apiVersion: v1\nkind: [\n")
    (project / "Dockerfile").write_text(f"FROM {name}:1.0.0\n")
    second = lock(project)
    after = parse_lock((project / "boltseal.lock").read_bytes())

    assert (first.code, second.code) == (0, 3)
    assert [image.reference for image in after.images] == [image.reference for image in before.images]
    assert [use.file for use in after.images[0].used] == ["Dockerfile", "compose.yaml"]
    assert after.images[1] == before.images[1]


async def test_a_project_with_different_pins_verifies_before_and_after_the_lock(server: Server, project: Path) -> None:
    """Two files pin one tag to two digests: verified before the lock, after it, and after `pin --write`, which changes none."""
    older, newer = image("older"), image("newer")
    for document in (older, newer):
        await publish(server, "latest", document)
    name = f"{server.address}/{SHOP}:latest"
    compose(project, web=f"{name}@{older.digest}", other=f"{name}@{newer.digest}")
    before = (project / "compose.yaml").read_bytes()
    codes = [verify(project).code, lock(project).code, verify(project).code, verify(project, "--offline").code]
    pinned = program.call("pin", "--write", cwd=project)

    assert codes == [0, 0, 0, 0]
    assert pinned.code == 0
    assert (project / "compose.yaml").read_bytes() == before


async def test_each_finding_is_an_annotation_at_its_line(server: Server, project: Path) -> None:
    """Each finding is a GitHub Actions annotation, and nothing in a name can end the workflow command."""
    await publish(server, "1.4.2", image("app"))
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    lock(project)
    compose(project, web=f"{server.address}/{SHOP}:1.4.2", new=f"{server.address}/{SHOP}:2.0.0")
    (project / "a,b:c.yaml").write_text("apiVersion: v1\nkind: [\n")
    result = verify(project, "--github")
    lines = result.out.splitlines()

    assert result.code == 1
    assert f"::error file=compose.yaml,line=5::{server.address}/{SHOP}:2.0.0: not-in-the-lock: " in result.out
    assert any(line.startswith("::warning file=compose.yaml,line=3::") for line in lines)
    assert any(line.startswith("::error file=a%2Cb%3Ac.yaml,line=") for line in lines)


async def test_an_unknown_registry_is_not_asked(server: Server, project: Path) -> None:
    """A checked-out project can't make boltseal contact an unknown registry, unless the user allows it."""
    compose(project, web="10.255.255.1:5000/shop/app:1.4.2")
    result = lock(project)
    (project.parent / "empty-home/boltseal").mkdir(parents=True)
    (project.parent / "empty-home/boltseal/boltseal.toml").write_text('[client]\nregistries = ["ghcr.io"]\n')
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    bounded = verify(project)

    assert result.code == 3
    assert "10.255.255.1:5000 is not contacted" in result.err
    assert bounded.code == 1  # neither locked nor pinned
    assert f"{server.address} is not contacted" in lock(project).err


async def test_a_registry_that_is_named_in_the_call_is_asked(server: Server, project: Path) -> None:
    """A registry named on the command line is contacted, since a pipeline has no settings file."""
    await publish(server, "1.4.2", image("app"))
    (project.parent / "empty-home/boltseal").mkdir(parents=True)
    (project.parent / "empty-home/boltseal/boltseal.toml").write_text("[client]\nregistries = []\n")
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")

    assert lock(project).code == 3
    assert lock(project, "--allow", server.address).code == 0
    assert lock(project, "--allow", "http://x").code == 2


def test_a_registry_that_is_down_could_not_be_checked(project: Path) -> None:
    """When the registry is down, the result is "could not check": neither success nor failure."""
    compose(project, web=f"127.0.0.1:{free_port()}/shop/app@sha256:{'0' * 64}")

    assert verify(project).code == 3
    assert verify(project, "--offline").code == 0


async def test_a_service_that_is_built_locally_is_a_local_build(server: Server, project: Path) -> None:
    """A service that is built locally is listed as such until its tag is pushed and taken by an update."""
    (project / "compose.yaml").write_text(
        f"services:\n  web:\n    build: .\n    image: {server.address}/{SHOP}:1.4.2\n"
    )
    (project / "Dockerfile").write_text("FROM scratch\n")
    result, held = lock(project), verify(project, "--json")
    await publish(server, "1.4.2", image("app"))

    assert (result.code, held.code) == (0, 0)
    assert "local_build = true" in (project / "boltseal.lock").read_text()
    assert held.json["results"][0]["status"] == "local-build"
    assert "a local build, resolves to sha256:" in lock(project).out
    assert "updated" in lock(project, "--update").out


async def test_a_part_of_a_project_is_locked_alone(server: Server, project: Path) -> None:
    """Locking some files keeps the lock's entries of the others; a file outside of the project is refused."""
    for tag in ("1.0.0", "2.0.0"):
        await publish(server, tag, image(tag))
    compose(project, web=f"{server.address}/{SHOP}:1.0.0")
    (project / "Dockerfile").write_text(f"FROM {server.address}/{SHOP}:2.0.0\n")
    lock(project)
    compose(project, web=f"{server.address}/{SHOP}:2.0.0")
    lock(project, "compose.yaml")
    whole = parse_lock((project / "boltseal.lock").read_bytes())

    assert [str(found.reference.tag) for found in whole.images] == ["2.0.0"]
    assert [use.file for use in whole.images[0].used] == ["Dockerfile", "compose.yaml"]
    assert lock(project, "..").code == 2
    assert lock(project, "none.yaml").code == 2


@pytest.mark.parametrize(
    "arguments", [("--update", "nobody/names:this"), ("--update", "No/Reference"), ("--project", "none")]
)
def test_mistyped_input_is_reported(project: Path, arguments: tuple[str, ...]) -> None:
    """Invalid input is exit code 2, and nothing is written."""
    assert lock(project, *arguments).code == 2
    assert list(project.iterdir()) == []


def test_excluded_files_are_not_read(project: Path) -> None:
    """The project's configuration can exclude files from reading, and make verify strict."""
    compose(project, web="${NOBODY}")
    (project / ".boltseal.toml").write_text('[lock]\nexclude = ["*.yaml"]\n')

    assert lock(project, "--allow-empty").code == 0
    assert verify(project, "--allow-empty").code == 0


def test_a_hostile_name_does_not_steer_the_terminal(project: Path) -> None:
    """Control characters in a reference or a file's text do not reach the terminal."""
    (project / "a\x1b[2J.yaml").write_text("apiVersion: v1\nkind: Pod\nspec:\n  containers: [{image: 'x\\x1b[2J'}]\n")
    result = [verify(project), verify(project, "--offline"), lock(project)]

    assert all("\x1b" not in run.out + run.err for run in result)
    assert all("\\x1b" in run.out + run.err for run in result)


def contents(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.iterdir()}


async def test_a_file_for_another_tool_holds_the_locked_digests(server: Server, project: Path) -> None:
    """Override files for Compose, kustomize and BuildKit have the locked digests, without any request or edit."""
    app = image("app")
    await publish(server, "1.4.2", app)
    name = f"{server.address}/{SHOP}"
    compose(project, web=f"{name}:1.4.2")
    (project / "Dockerfile").write_text(f"FROM {name}:1.4.2\n")
    (project / "pod.yaml").write_text(
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers: [{{name: a, image: '{name}:1.4.2'}}]\n"
    )
    early = program.call("lock", "--emit", "kustomize", cwd=project)
    lock(project)
    before = contents(project)
    texts = {
        what: program.call("lock", "--emit", what, "--allow", "nobody.example.com", cwd=project)
        for what in ("compose-override", "kustomize", "buildkit-source-policy")
    }

    assert (early.code, early.out) == (2, "")
    assert all(each.code == 0 and app.digest in each.out for each in texts.values())
    assert f'image: "{name}:1.4.2@{app.digest}"' in texts["compose-override"].out
    assert json.loads(texts["buildkit-source-policy"].out)["rules"][0]["action"] == "CONVERT"
    assert contents(project) == before


async def test_a_file_that_would_pin_nothing_is_not_printed(server: Server, project: Path) -> None:
    """`--emit kustomize` of a Compose project prints no empty list: it says what pins these references, with exit code 3."""
    await publish(server, "1.4.2", image("app"))
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    lock(project)
    result, allowed = lock(project, "--emit", "kustomize"), lock(project, "--emit", "kustomize", "--allow-empty")
    (project / "Dockerfile").write_text(f"FROM {server.address}/{SHOP}:1.4.2\n")
    lock(project)
    both = lock(project, "--emit", "compose-override")

    assert (result.code, result.out) == (3, "")
    assert "--emit kustomize pins none of the project's locked references" in result.err
    assert "use --emit compose-override" in result.err
    assert (allowed.code, allowed.out.splitlines()[-1]) == (0, "images: []")
    assert both.code == 0
    assert "1 reference of other files not in it: --emit buildkit-source-policy pins them" in both.err


async def test_a_file_for_another_tool_is_whole_or_not_there(server: Server, project: Path) -> None:
    """If an image is not locked, no override file is written, because it would be deployed by its tag."""
    await publish(server, "1.4.2", image("app"))
    compose(project, web=f"{server.address}/{SHOP}:1.4.2")
    lock(project)
    compose(project, web=f"{server.address}/{SHOP}:1.4.2", new=f"{server.address}/{SHOP}:2.0.0")
    result = lock(project, "--emit", "compose-override")

    assert (result.code, result.out) == (1, "")
    assert "compose.yaml:5: " in result.err
    assert "it is not in boltseal.lock" in result.err


def test_the_envelopes_have_their_schemas(project: Path) -> None:
    """JSON output has a versioned schema, also when it has no rows."""
    assert json.loads(lock(project, "--json").out)["schema"] == "boltseal.lock/1"
    assert json.loads(verify(project, "--json").out)["schema"] == "boltseal.verify/1"
