"""The door to an engine, on one that answers as Docker does, and on one that does not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import (
    Engine,
    EngineFailed,
    EngineFull,
    EngineProgress,
    EngineRefused,
    EngineUnavailable,
    Login,
    NoSuchContainer,
    NoSuchImage,
    connected,
)
from boltseal.engines.inventory import ContainerHealth, EngineMismatch, ImageStoreKind, State
from boltseal.errors import ExitCode, exit_code
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from tests.fakes.engine import SNAPSHOTTER, FakeEngine, Wrong

APP = Reference.parse("localhost:5000/shop/app:1.4.2")
PULLED = Reference.parse(f"localhost:5000/shop/app@{Digest.of(b'manifest')}")
BOTH = Reference(APP.registry, APP.repository, APP.tag, PULLED.digest)


@pytest.fixture
def fake() -> FakeEngine:
    """An engine with nothing in it."""
    return FakeEngine()


@pytest.fixture
async def engine(fake: FakeEngine, tmp_path: Path) -> AsyncIterator[Engine]:
    """The door to it."""
    async with fake.listening(tmp_path) as address, connected(address) as opened:
        yield opened


async def test_who_answers(fake: FakeEngine, engine: Engine) -> None:
    """Asked once, with the version of the API that everything after it goes by."""
    await engine.images()

    assert (engine.about.product, engine.about.api, engine.about.platform) == (
        "Docker",
        "1.45",
        Platform("linux", "amd64"),
    )
    assert fake.asked == ["GET version", "GET images/json"]


async def test_a_container_as_it_was_started_and_as_it_is(fake: FakeEngine, engine: Engine) -> None:
    """Two things: the words of who started it, and the image that it stands on."""
    image = fake.image("app")
    id_ = fake.container("web", str(APP), image, labels={"com.docker.compose.service": "web"})
    found = await engine.container(id_)

    assert await engine.container_ids() == (id_,)
    assert (found.name, found.started_as, str(found.image), found.running) == ("web", str(APP), image, True)
    assert found.labels == {"com.docker.compose.service": "web"}
    assert (found.created_us, found.started_us) == (1_795_161_600_123_456, 1_795_251_600_500_000)


async def test_a_container_that_goes_while_the_others_are_asked_for(fake: FakeEngine, engine: Engine) -> None:
    """Is not among them, and hides none of them."""
    image = fake.image("app")
    stays, goes = (fake.container(name, str(APP), image) for name in ("web", "gone"))
    fake.wrong[f"containers/{goes}/json"] = Wrong(404, b'{"message": "No such container"}')

    assert {each.id for each in await engine.containers()} == {stays}


async def test_how_a_container_is(fake: FakeEngine, engine: Engine) -> None:
    """What it does, what its own check says, how it ended and how often it was started again."""
    state = {
        "Status": "exited",
        "ExitCode": 137,
        "StartedAt": "2026-11-21T09:00:00Z",
        "Health": {"Status": "unhealthy"},
    }
    ended = await engine.container(fake.container("web", str(APP), fake.image("app"), State=state, RestartCount=3))
    running = await engine.container(fake.container("db", str(APP), fake.image("app")))

    assert (ended.state, ended.health, ended.exit_code, ended.restarts) == (
        State.EXITED,
        ContainerHealth.UNHEALTHY,
        137,
        3,
    )
    assert not ended.running
    assert (running.state, running.health, running.exit_code, running.restarts) == (
        State.RUNNING,
        ContainerHealth.NONE,
        None,
        0,
    )


@pytest.mark.parametrize(
    ("word", "state"),
    [(each.value, each) for each in State] + [("configured", State.CREATED), ("stopped", State.EXITED)],
)
async def test_what_containers_do(fake: FakeEngine, engine: Engine, word: str, state: State) -> None:
    """Docker's words, and Podman's."""
    found = await engine.container(fake.container("web", str(APP), "", State={"Status": word}))

    assert (found.state, found.running) == (state, word in ("running", "paused"))


@pytest.mark.parametrize(
    ("word", "health"),
    [("starting", ContainerHealth.STARTING), ("healthy", ContainerHealth.HEALTHY), ("", ContainerHealth.NONE)],
)
async def test_what_its_check_says(fake: FakeEngine, engine: Engine, word: str, health: ContainerHealth) -> None:
    """Podman writes nothing where there is none."""
    state = {"Status": "running", "Health": {"Status": word, "Log": [{"Output": "x"}]}}
    found = await engine.container(fake.container("web", str(APP), "", State=state))

    assert found.health is health


@pytest.mark.parametrize(
    "wrong",
    [
        {"State": {}},
        {"State": {"Status": "fine"}},
        {"State": {"Status": "running", "Health": {"Status": "well"}}},
        {"State": {"Status": "exited", "ExitCode": "0"}},
        {"State": {"Status": "exited", "ExitCode": 1 << 64}},
        {"RestartCount": -1},
        {"Name": "/web\u001b[2J"},
        {"Config": {"Image": "app", "Tty": "no"}},
    ],
)
async def test_a_container_that_can_not_be(fake: FakeEngine, engine: Engine, wrong: dict[str, object]) -> None:
    """Is not taken for one that is well."""
    with pytest.raises(EngineMismatch):
        await engine.container(fake.container("web", str(APP), "", **wrong))


def _frames(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4) + data for stream, data in parts)


async def test_the_last_lines_of_a_log(fake: FakeEngine, engine: Engine) -> None:
    """Both streams as one; a line that was begun is not cut by the other stream."""
    id_ = fake.container("web", str(APP), "")
    fake.logs[id_] = _frames((1, b"one\ntw"), (2, b"oh\n"), (1, b""), (1, b"o\nthree"))

    assert await engine.logs(id_, 3) == ("oh", "two", "three")
    assert fake.queries[-1] == {"stdout": "1", "stderr": "1", "tail": "3"}


async def test_the_log_of_a_container_with_a_terminal(fake: FakeEngine, engine: Engine) -> None:
    """Comes as it is. Colours are left out; what else moves a terminal is shown and does nothing."""
    id_ = fake.container("web", str(APP), "", Config={"Image": "app", "Tty": True})
    fake.logs[id_] = b"\x1b[31mred\x1b[0m\tx\r\n\x1b]0;title\x07 \x1b[2J\xff \xe2\x80\xae\n"

    assert await engine.logs(id_, 9) == ("red     x", "\\x1b]0;title\\x07 \\x1b[2J\ufffd \\u202e")


@pytest.mark.slow
async def test_a_log_without_an_end(fake: FakeEngine, engine: Engine) -> None:
    """Is not read for ever, whether it has lines or not."""
    for body in (_frames((1, b"x\n" * 30_000)), _frames((1, b"x" * 60_000))):
        id_ = fake.container("web", str(APP), "")
        fake.wrong[f"containers/{id_}/logs"] = Wrong(200, body, endless=True)

        with pytest.raises(EngineMismatch, match="answer is longer than 64 MiB"):
            await engine.logs(id_, 5)


async def test_a_line_of_a_log_without_an_end(fake: FakeEngine, engine: Engine) -> None:
    """Is cut, and says so."""
    id_ = fake.container("web", str(APP), "")
    fake.logs[id_] = _frames((1, b"x" * 1_000_000), (1, b"y\nend\n"))
    first, last = await engine.logs(id_, 5)

    assert (first, last) == ("x" * 4096 + "...", "end")


@pytest.mark.parametrize("body", [b"plain text\n", b"\x01\x01\0\0\0\0\0\1x", b"\x04\0\0\0\0\0\0\1x"])
async def test_a_log_in_no_form(fake: FakeEngine, engine: Engine, body: bytes) -> None:
    """Is no log."""
    id_ = fake.container("web", str(APP), "")
    fake.logs[id_] = body

    with pytest.raises(EngineMismatch, match="log is not in Docker's format"):
        await engine.logs(id_, 5)


async def test_the_log_of_a_container_that_has_gone(engine: Engine) -> None:
    """Is a miss."""
    with pytest.raises(NoSuchContainer):
        await engine.logs("0" * 64, 5)


async def test_an_image_with_its_names(fake: FakeEngine, engine: Engine) -> None:
    """What is no reference is no name."""
    id_ = fake.image("app", str(APP), "<none>:<none>", pulled=(str(PULLED), "<none>@<none>"))
    found = await engine.image(APP)

    assert (str(found.id), found.names, found.pulled_as) == (id_, (APP,), (PULLED,))
    assert found.platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("podman", "status", "store"),
    [
        (False, [], ImageStoreKind.CLASSIC),
        (False, SNAPSHOTTER, ImageStoreKind.CONTAINERD),
        (True, [], ImageStoreKind.PODMAN),
    ],
)
async def test_which_store(tmp_path: Path, podman: bool, status: list[list[str]], store: ImageStoreKind) -> None:
    """It decides what an ID is."""
    async with (
        FakeEngine(podman=podman, driver_status=status).listening(tmp_path) as address,
        connected(address) as engine,
    ):
        assert await engine.store() is store


async def test_a_pull_is_by_digest_and_believed_when_the_image_is_there(fake: FakeEngine, engine: Engine) -> None:
    """The login goes along; each step is told."""
    id_ = fake.image("app", pulled=(str(PULLED),))
    fake.progress = [{"status": "Downloading", "id": "ab", "progressDetail": {"current": 5, "total": 9}}]
    told: list[EngineProgress] = []
    found = await engine.pull(BOTH, platform="linux/arm64", login=Login("ci", "secret"), tell=told.append)

    at = fake.asked.index("POST images/create")
    sent = json.loads(base64.urlsafe_b64decode(fake.headers[at]["X-Registry-Auth"]))
    assert (str(found.id), told) == (id_, [EngineProgress("Downloading", "ab", 5, 9)])
    assert fake.queries[at] == {"fromImage": str(PULLED), "platform": "linux/arm64"}
    assert sent == {"username": "ci", "password": "secret", "serveraddress": "localhost:5000"}


async def test_a_stream_that_ends_without_the_image_is_no_pull(engine: Engine) -> None:
    """Whatever it said on the way."""
    with pytest.raises(NoSuchImage):
        await engine.pull(BOTH)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("write /var/lib/docker/tmp: no space left on device", EngineFull),
        ("manifest unknown", NoSuchImage),
        ("received unexpected HTTP status: 503", EngineFailed),
    ],
)
async def test_what_goes_wrong_in_mid_stream_is_told(
    fake: FakeEngine, engine: Engine, said: str, kind: type[Exception]
) -> None:
    """The answer was 200 by then."""
    fake.progress = [{"status": "Downloading"}, {"errorDetail": {"message": said}, "error": said}]

    with pytest.raises(kind, match=said):
        await engine.pull(BOTH)


def test_a_login_is_never_shown() -> None:
    """Neither its password nor its token."""
    assert repr(Login("ci", "secret", "token")) == "Login(username='ci')"


async def test_a_name_is_taken_away_and_nothing_else(fake: FakeEngine, engine: Engine) -> None:
    """Another tag keeps the image; without one it would go too, and that has to be asked for."""
    kept = Reference.parse("localhost:5000/shop/app:boltseal-keep-1")
    id_ = fake.image("app", str(APP))
    with pytest.raises(EngineRefused, match="is the last tag of its image"):
        await engine.untag(APP)
    await engine.tag(APP, kept)
    await engine.untag(APP)

    assert fake.images[id_]["RepoTags"] == [str(kept)]
    assert fake.queries[-1] == {"force": "0", "noprune": "1"}


async def test_an_archive_out_and_in(fake: FakeEngine, engine: Engine, tmp_path: Path) -> None:
    """Byte for byte."""
    fake.image("app", str(APP))
    await engine.save(APP, tmp_path / "app.tar")
    await engine.load(tmp_path / "app.tar")

    assert fake.loaded == [b"archive"]


async def test_an_archive_that_is_not_taken_is_told(fake: FakeEngine, engine: Engine, tmp_path: Path) -> None:
    """In mid-stream, as Docker does."""
    (tmp_path / "app.tar").write_bytes(b"archive")
    fake.progress = [{"error": "unexpected EOF"}]

    with pytest.raises(EngineFailed, match="unexpected EOF"):
        await engine.load(tmp_path / "app.tar")


async def test_what_has_gone_meanwhile_is_a_miss(engine: Engine) -> None:
    """And nothing else is one."""
    with pytest.raises(NoSuchImage):
        await engine.image(APP)
    with pytest.raises(NoSuchContainer, match="no such container"):
        await engine.container("0" * 64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Wrong(500, b'{"message": "\\u001b[31mdisk"}'), r"the engine failed: \"\\x1b\[31mdisk\""),
        (Wrong(500, b'{"massage": 1}'), "without an error message in Docker's format"),
        (Wrong(500, b"[]"), "without an error message in Docker's format"),
        (Wrong(500, b"\xff", "text/plain"), "without an error message in Docker's format"),
        (Wrong(500, b"[" * 100_000), "without an error message in Docker's format"),
        (Wrong(200, b"[]"), "the engine's answer about an image can't be parsed"),
        (Wrong(200, b"[" * 100_000), "can't be parsed"),
        (Wrong(200, b'{"Id": "app"}'), "expected a digest"),
        (Wrong(200, b'{"Id": ""}'), "expected a digest"),
        (Wrong(302, headers={"location": "http://169.254.169.254/latest"}), r"redirects \(status 302\)"),
        (Wrong(200, b" " * 65536, endless=True), "answer is longer than 64 MiB"),
        (Wrong(500, b" " * 65536, endless=True), "answer is longer than 64 MiB"),
    ],
)
async def test_an_engine_that_answers_wrongly(fake: FakeEngine, engine: Engine, wrong: Wrong, said: str) -> None:
    """Is one line that says so, and never an image."""
    fake.wrong[f"images/{APP}/json"] = wrong

    with pytest.raises((EngineFailed, EngineMismatch), match=said) as error:
        await engine.image(APP)
    assert exit_code(error.value) is ExitCode.UNKNOWN


async def test_a_line_of_progress_without_an_end(fake: FakeEngine, engine: Engine) -> None:
    """Is not waited for."""
    fake.wrong["images/create"] = Wrong(200, b" " * 65536 + b"x", endless=True)

    with pytest.raises(EngineMismatch, match="a line longer than 64 KiB"):
        await engine.pull(BOTH)


@pytest.mark.parametrize("id_", ["../../images/json", "a b", "", "A" * 64])
async def test_a_container_that_is_named_like_a_path(fake: FakeEngine, engine: Engine, id_: str) -> None:
    """Is not asked about."""
    fake.containers[id_] = {}

    with pytest.raises(EngineMismatch, match="expected 64 hex digits"):
        await engine.container_ids()


async def test_a_version_that_is_a_path(tmp_path: Path) -> None:
    """Is not spoken."""
    async with FakeEngine(api="1.45/../../secrets").listening(tmp_path) as address:
        with pytest.raises(EngineMismatch, match="reports API version"):
            async with connected(address):
                pass


async def test_nobody_listens(tmp_path: Path) -> None:
    """A socket that is not there, one that is a file, and a port."""
    (tmp_path / "file").write_text("")
    for text in (f"unix://{tmp_path}/none", f"unix://{tmp_path}/file", "tcp://127.0.0.1:1"):
        with pytest.raises(EngineUnavailable, match=r"no engine listens at .*; is Docker running"):
            async with connected(EngineAddress.parse(text)):
                pass


async def test_certificates_that_are_not_there(tmp_path: Path) -> None:
    """Nothing is sent in the clear instead."""
    with pytest.raises(EngineUnavailable, match=r"ca.pem, cert.pem and key.pem can't be used"):
        async with connected(EngineAddress.parse("tcp://127.0.0.1:1", tmp_path)):
            pass


async def test_containers_that_are_never_told_whole(fake: FakeEngine, engine: Engine) -> None:
    """Are not waited for: all together have their time, and not only each of them."""
    id_ = fake.container("web", "app", fake.image("app"))
    fake.wrong[f"containers/{id_}/json"] = Wrong(200, b" ", endless=True)

    with pytest.raises(EngineUnavailable, match=r"did not report its containers within 0\.2 s"):
        await engine.containers(within_s=0.2)
