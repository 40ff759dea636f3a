"""`boltseal ps` and `verify --running`, with an engine in memory and a listening registry."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents, ReleasedService, ReleaseEnd, ReleaseKind
from boltseal.lockfile.document import SECOND_US, LockedImage, LockedPlatform
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.cli import program
from tests.cli.program import Run
from tests.fakes.cluster import FakeCluster
from tests.fakes.engine import FakeEngine, Wrong
from tests.images import OCI_INDEX, Document, image, push
from tests.lockfile.locks import lock_of
from tests.polling import until, until_signed
from tests.programs import program as program_of
from tests.servers import Server

NAME = "localhost:5000/shop/app:1.4.2"
INDEX, OTHER = Digest.of(b"index"), Digest.of(b"other")
AT = f"localhost:5000/shop/app@{INDEX}"
DAY_US = 86_400 * SECOND_US
STARTED_US = 1_795_161_600 * SECOND_US
"""When the fake's containers are created: 2026-11-20."""

pytestmark = pytest.mark.slow


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@asynccontextmanager
async def listening(fake: FakeEngine, folder: Path) -> AsyncIterator[str]:
    async with fake.listening(folder) as address:
        yield str(address)


async def run(*arguments: str, cwd: Path) -> Run:
    """Run a command in another process, while the engine answers in this one."""
    return await asyncio.to_thread(program.call, *arguments, cwd=cwd)


async def asked(fake: FakeEngine, folder: Path, *arguments: str) -> Run:
    """Run a command with the fake as its engine, in a project of its own."""
    async with fake.listening(folder) as address:
        return await run(*arguments, "--host", str(address), cwd=folder)


def locks(folder: Path, *platforms: LockedPlatform, digest: Digest = INDEX, seen_us: int = STARTED_US) -> None:
    """Write a lock with this one reference."""
    locked = LockedImage(Reference.parse(NAME), digest, seen_us, OCI_INDEX, platforms)
    (folder / "boltseal.lock").write_text(format_lock(lock_of(locked)))


async def test_running_images_are_shown_from_host_and_lock_alone(fake: FakeEngine, tmp_path: Path) -> None:
    """Offline, running images are shown from host and lock; each unknown fact is marked as unknown."""
    locks(tmp_path)
    fake.container("web", NAME, fake.image("app", NAME, pulled=(AT,)))
    fake.container("mine", "made:1", fake.image("made", "made:1"))
    done = await asked(fake, tmp_path, "ps", "--offline")

    assert done.code == 0
    assert done.out == (
        "made:1, local\n"
        f"  config {Digest.of(b'made')}\n"
        "  lock: not-in-the-lock\n"
        "  mine  since 2026-11-21T09:00:00Z\n"
        "\n"
        f"{NAME}, by the lock\n"
        f"  index {INDEX}\n"
        f"  config {Digest.of(b'app')}\n"
        "  lock: same\n"
        "  web  since 2026-11-21T09:00:00Z\n"
    )
    assert "2 containers" in done.err
    assert "could not ask: no registry was asked" in done.err
    assert "1 holds, 1 not-in-the-lock" in done.err


async def test_everything_as_json(fake: FakeEngine, tmp_path: Path) -> None:
    """JSON is one object in which each digest is labelled by its kind."""
    id_ = fake.image("app", NAME, pulled=(AT,))
    fake.container("web", NAME, id_)
    done = await asked(fake, tmp_path, "ps", "--offline", "--json")
    (found,) = done.json["results"]

    assert (done.json["schema"], done.json["outcome"]) == ("boltseal.ps/1", "holds")
    assert (found["ref"], found["status"], found["container"], found["started_as"]) == (
        NAME,
        "not-compared",
        "web",
        NAME,
    )
    assert found["image"] == {"index": [], "manifest": [], "config": [id_], "digest": [str(INDEX)], "image_id": []}
    assert (found["started_at"], found["created_at"]) == ("2026-11-21T09:00:00Z", "2026-11-20T08:00:00Z")
    assert (found["resolves_to"], found["moved"], found["behind"], found["unasked"]) == (
        None,
        None,
        None,
        "no registry was asked",
    )


async def publish(server: Server, tag: str, document: Document) -> None:
    """Push an image and wait until its ledger entry is signed: `ps` counts the moves that a checkpoint covers."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await push(client, "shop/app", tag, document)
        assert answer.status_code == 201
        await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)


@pytest.mark.slow
async def test_the_registry_gives_the_tags_digest_and_its_age(fake: FakeEngine, server: Server, tmp_path: Path) -> None:
    """`ps` sends one HEAD per tag and one history request per repository, however many containers run it."""
    first, second = image("first"), image("second")
    await publish(server, "1.4.2", first)
    await publish(server, "latest", first)
    await publish(server, "latest", second)
    name = f"{server.address}/shop/app:latest"
    id_ = fake.image("app", pulled=(f"{server.address}/shop/app@{first.digest}",))
    for number in range(3):
        fake.container(f"web{number}", name, id_)
    done = await asked(fake, tmp_path, "ps", "--json")
    text = " ".join((await asked(fake, tmp_path, "ps")).out.split())
    found = done.json["results"][2]

    assert done.code == 0, done.err
    assert (found["resolves_to"], found["moved"], found["behind"], found["tags_by"]) == (
        second.digest,
        True,
        1,
        "ledger",
    )
    assert [(tag["tag"], tag["until"] is None, tag["entry"]) for tag in found["tags"]] == [
        ("1.4.2", True, 2),
        ("latest", False, 3),
    ]
    assert found["image"]["manifest"] == [first.digest]  # known from the ledger, without a request by digest
    assert "/shop/app 1.4.2; was `latest` until 20" in text
    assert "1 move behind `latest`" in text


@pytest.mark.slow
async def test_a_registry_that_does_not_answer_is_only_missing_from_the_answers(
    fake: FakeEngine, tmp_path: Path
) -> None:
    """When a registry does not answer, `ps` prints the facts of the host and says that the registry could not be asked."""
    name = "127.0.0.1:1/shop/app:1.4.2"
    fake.container("web", name, fake.image("app", name, pulled=(f"127.0.0.1:1/shop/app@{INDEX}",)))
    done = await asked(fake, tmp_path, "ps")

    assert done.code == 0
    assert "127.0.0.1:1/shop/app:1.4.2, as its host calls it" in " ".join(done.out.split())
    assert "could not ask: 127.0.0.1:1 did not answer" in done.err


async def test_a_registry_without_permission_gets_no_request(fake: FakeEngine, tmp_path: Path) -> None:
    """An image name reported by an engine can't make boltseal contact a registry that the user has not allowed."""
    name = "169.254.169.254/latest/meta-data:1"
    fake.container("web", name, fake.image("app", name, pulled=(f"{name.partition(':')[0]}@{INDEX}",)))
    done = await asked(fake, tmp_path, "ps")

    assert done.code == 0
    assert "could not ask: 169.254.169.254 is not contacted: it is not among the registries" in done.err


@pytest.mark.parametrize("verb", [("ps",), ("verify", "--running")])
async def test_a_missing_engine_could_not_be_checked(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """A missing engine is one error line with exit code 3."""
    locks(tmp_path)
    done = await run(*verb, "--host", f"unix://{tmp_path}/none.sock", cwd=tmp_path)

    assert done.code == 3
    assert "boltseal: no engine listens at unix://" in done.err
    assert done.out == ""


@pytest.mark.real
async def test_a_socket_without_permission_could_not_be_checked(fake: FakeEngine, tmp_path: Path) -> None:
    """Without rights on the socket the message says how to get them, and the exit code is 3. Root has none here either."""
    async with fake.listening(tmp_path) as address:
        os.chmod(address.path, 0o600)  # noqa: PTH101 - a socket
        os.chown(address.path, 12345, 12345)
        done = await asyncio.to_thread(
            subprocess.run,
            [program_of("setpriv"), "--bounding-set=-dac_override", *_boltseal("ps", "--host", str(address))],
            capture_output=True,
            text=True,
            env=program.clean_environment(),
            check=False,
        )

    assert done.returncode == 3
    assert "no permission for the engine's socket" in done.stderr
    assert "join its group (`docker`) or run as root" in done.stderr


async def test_one_unreachable_host_of_two_is_reported(fake: FakeEngine, tmp_path: Path) -> None:
    """If one of two hosts can't be read, the other's containers are printed and the exit code is 3."""
    fake.container("web", NAME, fake.image("app", NAME))
    done = await asked(fake, tmp_path, "ps", "--offline", "--json", "--host", f"unix://{tmp_path}/none.sock")

    assert (done.code, done.json["outcome"]) == (3, "unknown")
    assert [each["status"] for each in done.json["results"]] == ["not-compared", "unknown"]


async def test_running_images_that_match_the_lock(fake: FakeEngine, tmp_path: Path) -> None:
    """If every running image is the locked one, verify prints nothing on stdout; unlocked images are counted, or
    refused by --strict."""
    locks(tmp_path)
    fake.container("web", NAME, fake.image("app", NAME, pulled=(AT,)))
    fake.container("proxy", "traefik:3", fake.image("proxy", "traefik:3"))
    done = await asked(fake, tmp_path, "verify", "--running")
    strict = await asked(fake, tmp_path, "verify", "--running", "--strict", "--json")

    assert (done.code, strict.code) == (0, 1)
    assert "proxy: traefik:3: not-in-the-lock: it is not in boltseal.lock" in done.out
    assert "1 holds, 1 not-in-the-lock" in done.err
    assert (strict.json["schema"], strict.json["results"][0]["weight"]) == ("boltseal.verify-running/1", "differs")


async def test_running_images_that_differ_from_the_lock(fake: FakeEngine, tmp_path: Path) -> None:
    """Each running image that differs from the lock is one line with the reason."""
    locks(tmp_path, digest=OTHER, seen_us=STARTED_US + DAY_US)
    fake.container("web", NAME, fake.image("app", NAME, pulled=(AT,)))
    done = await asked(fake, tmp_path, "verify", "--running", "--offline")

    assert done.code == 1
    assert f"engine.sock: web: {NAME}: moved-after-the-pull: {NAME} moved after its host pulled it" in done.out


async def test_a_host_without_locked_images_could_not_be_checked(fake: FakeEngine, tmp_path: Path) -> None:
    """A host without any container of the lock is not a success."""
    locks(tmp_path)
    done = await asked(fake, tmp_path, "verify", "--running")
    allowed = await asked(fake, tmp_path, "verify", "--running", "--allow-empty")

    assert (done.code, allowed.code) == (3, 0)
    assert "nothing to check: found 0 containers, none of them in boltseal.lock; expected at least 1;" in done.err


async def test_a_missing_lock_could_not_be_checked(fake: FakeEngine, tmp_path: Path) -> None:
    """Without a lock, verify reports that there is nothing to compare, and asks no registry."""
    done = await asked(fake, tmp_path, "verify", "--running")

    assert done.code == 2
    assert "boltseal.lock is not there; write it with `boltseal lock`" in done.err
    assert fake.asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ps", "--kube", "prod", "--compose", "."), "--kube can't be combined with"),
        (("ps", "--namespace", "shop"), "--namespace needs --kube"),
        (("verify", "--running", "compose.yaml"), "excludes PATH and --github"),
        (("verify", "--host", "ssh://web1"), "need --running"),
        (("ps", "--host", "ssh://-oProxyCommand=x"), "is not an engine address"),
        (("ps", "--compose", "nothing.yaml"), "no such file"),
    ],
)
def test_contradicting_options_are_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """Contradicting options are a usage error of one line."""
    done = program.call(*arguments, cwd=tmp_path)

    assert done.code == 2
    assert message in done.err


async def test_the_containers_of_a_compose_project(fake: FakeEngine, tmp_path: Path) -> None:
    """With a Compose project only its containers are checked, and a service that runs nowhere is reported."""
    id_ = fake.image("app", NAME)
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    fake.container("shop-web-1", NAME, id_, labels=labels)
    fake.container("other-web-1", NAME, id_, labels=labels | {"com.docker.compose.project": "other"})
    fake.container("alone", NAME, id_)
    services = "{web: {image: a}, db: {image: b}, debug: {image: c, profiles: [x]}, none: {image: d, scale: 0}}"
    (tmp_path / "compose.yaml").write_text(f"name: shop\nservices: {services}\n")
    done = await asked(fake, tmp_path, "ps", "--offline", "--compose", "compose.yaml")

    assert done.code == 0
    assert "shop-web-1" in done.out
    assert "other-web-1" not in done.out + done.err
    assert done.err.count("no container runs for this service") == 1
    assert "db: no container runs for this service" in done.err


async def test_the_release_of_a_running_image_is_shown(fake: FakeEngine, tmp_path: Path) -> None:
    """`ps` names the release of this machine whose image and time match the container, and no other."""
    id_, other = fake.image("app", NAME), fake.image("other")
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    fake.container("shop-web-1", NAME, id_, labels=labels)
    fake.container("shop-web-2", NAME, id_, labels=labels, Created="2026-11-25T08:00:00Z")
    fake.container("shop-db-1", NAME, other, labels=labels)
    created_us = STARTED_US
    service = ReleasedService(name="web", image=NAME, image_id=id_)
    made = {"project": "shop", "kind": ReleaseKind.DEPLOY, "directory": "/srv/shop", "services": (service,)}
    folder = ReleaseFolder(tmp_path / "state", "shop")
    for number, started_us in ((6, created_us - DAY_US), (7, created_us - SECOND_US)):
        release = Release(number=number, started_us=started_us, who=f"ada{number}", **made)  # type: ignore[arg-type]
        folder.begin(release.ended(ReleaseEnd.HEALTHY, started_us + 9 * SECOND_US), ReleaseContents(b"{}"))
    state = {"BOLTSEAL_STATE": str(tmp_path / "state")}
    async with fake.listening(tmp_path) as address:
        arguments = ("ps", "--offline", "--host", str(address))
        done = await asyncio.to_thread(program.call, *arguments, "--json", environment=state)
        text = await asyncio.to_thread(program.call, *arguments, environment=state)
    found = {each["container"]: (each["release"], each["released_by"]) for each in done.json["results"]}

    assert found == {"shop-web-1": (7, "ada7"), "shop-web-2": (None, None), "shop-db-1": (None, None)}
    assert "released by ada7 (release 7)" in " ".join(text.out.split())


async def test_a_restored_container_belongs_to_the_former_release(fake: FakeEngine, tmp_path: Path) -> None:
    """A container that a failed deploy restored from the former release's image is attributed to that former release."""
    before, failed = fake.image("app", NAME), fake.image("other")
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    fake.container("shop-web-1", NAME, before, labels=labels)
    folder = ReleaseFolder(tmp_path / "state", "shop")
    for number, image_id, started_us, end in (
        (6, before, STARTED_US - DAY_US, ReleaseEnd.HEALTHY),
        (7, failed, STARTED_US - SECOND_US, ReleaseEnd.PUT_BACK),
    ):
        release = Release(
            project="shop",
            kind=ReleaseKind.DEPLOY,
            directory="/srv/shop",
            number=number,
            previous=number - 1,
            started_us=started_us,
            who=f"ada{number}",
            services=(ReleasedService(name="web", image=NAME, image_id=image_id),),
        )
        folder.begin(release.ended(end, started_us + 9 * SECOND_US), ReleaseContents(b"{}"))
    async with fake.listening(tmp_path) as address:
        done = await asyncio.to_thread(
            program.call,
            *("ps", "--offline", "--host", str(address), "--json"),
            environment={"BOLTSEAL_STATE": str(tmp_path / "state")},
        )

    assert [(each["release"], each["released_by"]) for each in done.json["results"]] == [(6, "ada6")]


async def test_hostile_texts_of_an_engine_are_escaped(fake: FakeEngine, tmp_path: Path) -> None:
    """Control characters from an engine are escaped; an invalid container name makes the host "could not check"."""
    evil = "app\x1b]0;pwned\x07\u202e"
    fake.container("web", evil, fake.image("app", NAME), labels={"com.docker.compose.project": evil})
    result = await asked(fake, tmp_path, "ps", "--offline")
    fake.container("db", NAME, fake.image("app", NAME), Name="/db\x1b[2J")
    refused = await asked(fake, tmp_path, "ps", "--offline")

    assert result.code == 0
    assert "\x1b" not in result.out + result.err + refused.out + refused.err
    assert refused.code == 3
    assert "the engine reports a container name" in refused.err


async def test_an_engine_that_answers_falsely_halfway_could_not_be_read(fake: FakeEngine, tmp_path: Path) -> None:
    """If an engine's answer becomes invalid halfway, its host could not be read; a partial list is not shown as
    complete."""
    id_ = fake.image("app", NAME)
    fake.container("web", NAME, id_)
    fake.wrong[f"images/{id_}/json"] = Wrong(200, b"[" * 100_000)
    done = await asked(fake, tmp_path, "ps", "--offline", "--json")

    assert (done.code, [each["status"] for each in done.json["results"]]) == (3, ["unknown"])


@pytest.mark.slow
async def test_a_repeated_run_reports_what_changed(fake: FakeEngine, tmp_path: Path) -> None:
    """`ps --every` prints the whole table first, then only new, changed and ended containers, until it is ended."""
    id_ = fake.image("app", NAME)
    fake.container("web", NAME, id_)
    fake.container("db", NAME, id_)
    async with fake.listening(tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            *_boltseal("ps", "--offline", "--watch", "1s", "--host", str(address)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=program.clean_environment({"PYTHONUNBUFFERED": "1"}),
        )
        assert process.stdout is not None
        first = [(await process.stdout.readline()).decode().split()[0] for _ in range(4)]
        fake.containers.pop(next(id_ for id_, it in fake.containers.items() if it["Name"] == "/db"))
        fake.container("new", NAME, id_)
        later = b"".join([await process.stdout.readline() for _ in range(5)]).decode()
        process.send_signal(2)
        code = await process.wait()

    assert first == [f"{NAME},", "config", "db", "web"]
    assert later.startswith("-- 20")
    assert "  new  since" in later
    assert "web" not in later
    assert later.endswith("db no longer runs\n")
    assert code == 130


@pytest.mark.slow
async def test_a_host_without_containers_is_reported_once(fake: FakeEngine, tmp_path: Path) -> None:
    """A host without containers is reported once; containers that start later are reported as new."""
    async with fake.listening(tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            *_boltseal("ps", "--offline", "--watch", "1s", "--host", str(address)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=program.clean_environment({"PYTHONUNBUFFERED": "1"}),
        )
        assert process.stdout is not None
        await until(lambda: fake.asked.count("GET containers/json") >= 3, "the engine was asked three times")
        fake.container("web", NAME, fake.image("app", NAME))
        later = b"".join([await process.stdout.readline() for _ in range(4)]).decode()
        process.send_signal(2)
        _, err = await process.communicate()

    assert later.startswith("-- 20")
    assert "  web  since" in later
    assert err.decode().count("0 containers; times are UTC") == 1
    assert "1 container;" not in err.decode()


@pytest.mark.real
async def test_a_cluster_is_listed_and_verified(tmp_path: Path) -> None:
    """A cluster is read by kubectl, and compared with the same lock as any host."""
    name = Reference.parse("registry.example.com/shop/app:1.4.2")
    platform = LockedPlatform("linux/amd64", Digest.of(b"manifest amd64"), Digest.of(b"config amd64"))
    locked = LockedImage(name, Digest.of(b"index"), STARTED_US, OCI_INDEX, (platform,))
    (tmp_path / "boltseal.lock").write_text(format_lock(lock_of(locked)))
    cluster = FakeCluster.of("containerd-index", "cri-o-manifest", "docker-local")
    async with cluster.listening(tmp_path, "prod") as config:
        kube = {"KUBECONFIG": str(config), "HOME": str(tmp_path)}
        where = ("--offline", "--kube", "prod", "--project", str(tmp_path))
        done = await asyncio.to_thread(program.call, "ps", *where, environment=kube)
        held = await asyncio.to_thread(program.call, "verify", "--running", *where, "--json", environment=kube)

    assert (done.code, held.code) == (0, 0)
    assert done.out.count("  lock: same") == 3
    assert "shop/web-85fc74bc47-bqpbq/web on node-a  since 2026-11-21T09:00:00Z" in done.out
    assert [sorted(kind for kind, some in each["image"].items() if some) for each in held.json["results"]] == [
        ["config"],
        ["manifest"],
        ["index"],
    ]


@pytest.mark.slow
async def test_a_temporarily_unreachable_host_loses_no_containers(fake: FakeEngine, tmp_path: Path) -> None:
    """Containers of a temporarily unreachable host are not reported as ended; after its return only changes are
    printed."""
    fake.container("web", NAME, fake.image("app", NAME))
    async with fake.listening(tmp_path) as address:
        process = await asyncio.create_subprocess_exec(
            *_boltseal("ps", "--offline", "--watch", "1s", "--host", str(address)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=program.clean_environment({"PYTHONUNBUFFERED": "1"}),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            await process.stdout.readline()
        fake.wrong["info"] = Wrong(500, b'{"message": "restarting"}')
        while b"restarting" not in await process.stderr.readline():
            pass
        del fake.wrong["info"]
        fake.container("db", NAME, fake.image("app", NAME))
        later = b"".join([await process.stdout.readline() for _ in range(4)]).decode()
        process.send_signal(2)
        await process.communicate()

    assert "no longer runs" not in later
    assert later.splitlines()[-1].startswith("  db  since")


def _boltseal(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "boltseal", *arguments]
