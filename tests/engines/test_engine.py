"""The client of an engine, with a fake Docker API and wrong answers."""

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
    """An engine without images and containers."""
    return FakeEngine()


@pytest.fixture
async def engine(fake: FakeEngine, tmp_path: Path) -> AsyncIterator[Engine]:
    """A connected client."""
    async with fake.listening(tmp_path) as address, connected(address) as opened:
        yield opened


async def test_the_version_is_negotiated_once(fake: FakeEngine, engine: Engine) -> None:
    """The API version is negotiated once and used by all further requests."""
    await engine.images()

    assert (engine.about.product, engine.about.api, engine.about.platform) == (
        "Docker",
        "1.45",
        Platform("linux", "amd64"),
    )
    assert fake.asked == ["GET version", "GET images/json"]


async def test_a_container_has_the_written_and_the_used_image(fake: FakeEngine, engine: Engine) -> None:
    """A container has the image name as its creator wrote it, and the image's ID."""
    image = fake.image("app")
    id_ = fake.container("web", str(APP), image, labels={"com.docker.compose.service": "web"})
    found = await engine.container(id_)

    assert await engine.container_ids() == (id_,)
    assert (found.name, found.started_as, str(found.image), found.running) == ("web", str(APP), image, True)
    assert found.labels == {"com.docker.compose.service": "web"}
    assert (found.created_us, found.started_us) == (1_795_161_600_123_456, 1_795_251_600_500_000)


async def test_a_container_that_vanishes_meanwhile_is_left_out(fake: FakeEngine, engine: Engine) -> None:
    """A container that vanishes during the listing is left out, and the others are reported."""
    image = fake.image("app")
    stays, vanishes = (fake.container(name, str(APP), image) for name in ("web", "gone"))
    fake.wrong[f"containers/{vanishes}/json"] = Wrong(404, b'{"message": "No such container"}')

    assert {each.id for each in await engine.containers()} == {stays}


async def test_state_health_exit_code_and_restarts_are_read(fake: FakeEngine, engine: Engine) -> None:
    """State, health, exit code and restarts are read as the engine reports them."""
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
async def test_states_of_docker_and_podman_are_mapped(
    fake: FakeEngine, engine: Engine, word: str, state: State
) -> None:
    """All state names of Docker and Podman are mapped."""
    found = await engine.container(fake.container("web", str(APP), "", State={"Status": word}))

    assert (found.state, found.running) == (state, word in ("running", "paused"))
    assert found.cleaned_up is (word != "stopped")


@pytest.mark.parametrize(
    ("word", "health"),
    [("starting", ContainerHealth.STARTING), ("healthy", ContainerHealth.HEALTHY), ("", ContainerHealth.NONE)],
)
async def test_health_statuses_are_mapped(fake: FakeEngine, engine: Engine, word: str, health: ContainerHealth) -> None:
    """Health statuses are mapped; Podman's empty one means that there is no check."""
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
async def test_an_impossible_container_is_a_mismatch(
    fake: FakeEngine, engine: Engine, wrong: dict[str, object]
) -> None:
    """A container with impossible values is a mismatch, never a healthy one."""
    with pytest.raises(EngineMismatch):
        await engine.container(fake.container("web", str(APP), "", **wrong))


def _frames(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4) + data for stream, data in parts)


async def test_the_end_of_a_log_is_read(fake: FakeEngine, engine: Engine) -> None:
    """A log's end is read from both streams without splitting the lines of either."""
    id_ = fake.container("web", str(APP), "")
    fake.logs[id_] = _frames((1, b"one\ntw"), (2, b"oh\n"), (1, b""), (1, b"o\nthree"))

    assert await engine.logs(id_, 3) == ("oh", "two", "three")
    assert fake.queries[-1] == {"stdout": "1", "stderr": "1", "tail": "3"}


async def test_the_log_of_a_terminal_is_one_stream(fake: FakeEngine, engine: Engine) -> None:
    """In a terminal's log, colour codes are removed and other control characters escaped."""
    id_ = fake.container("web", str(APP), "", Config={"Image": "app", "Tty": True})
    fake.logs[id_] = b"\x1b[31mred\x1b[0m\tx\r\n\x1b]0;title\x07 \x1b[2J\xff \xe2\x80\xae\n"

    assert await engine.logs(id_, 9) == ("red     x", "\\x1b]0;title\\x07 \\x1b[2J\ufffd \\u202e")


@pytest.mark.slow
async def test_an_endless_log_is_bounded(fake: FakeEngine, engine: Engine) -> None:
    """A log is read up to a limit, with line ends or without."""
    for body in (_frames((1, b"x\n" * 30_000)), _frames((1, b"x" * 60_000))):
        id_ = fake.container("web", str(APP), "")
        fake.wrong[f"containers/{id_}/logs"] = Wrong(200, body, endless=True)

        with pytest.raises(EngineMismatch, match="answer is longer than 64 MiB"):
            await engine.logs(id_, 5)


async def test_an_endless_line_of_a_log_is_cut(fake: FakeEngine, engine: Engine) -> None:
    """A very long log line is truncated with an ellipsis."""
    id_ = fake.container("web", str(APP), "")
    fake.logs[id_] = _frames((1, b"x" * 1_000_000), (1, b"y\nend\n"))
    first, last = await engine.logs(id_, 5)

    assert (first, last) == ("x" * 4096 + "...", "end")


@pytest.mark.parametrize("body", [b"plain text\n", b"\x01\x01\0\0\0\0\0\1x", b"\x04\0\0\0\0\0\0\1x"])
async def test_a_malformed_log_is_a_mismatch(fake: FakeEngine, engine: Engine, body: bytes) -> None:
    """A log that is not in Docker's format is a mismatch."""
    id_ = fake.container("web", str(APP), "")
    fake.logs[id_] = body

    with pytest.raises(EngineMismatch, match="log is not in Docker's format"):
        await engine.logs(id_, 5)


async def test_the_log_of_a_vanished_container_is_a_miss(engine: Engine) -> None:
    """The log of a vanished container raises NoSuchContainer."""
    with pytest.raises(NoSuchContainer):
        await engine.logs("0" * 64, 5)


async def test_an_image_has_its_names(fake: FakeEngine, engine: Engine) -> None:
    """An image's names are parsed, and invalid ones are skipped."""
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
async def test_the_kind_of_store_is_read(
    tmp_path: Path, podman: bool, status: list[list[str]], store: ImageStoreKind
) -> None:
    """The kind of image store, which determines what an image ID is, is read; Podman, which has one kind, is not asked."""
    fake = FakeEngine(podman=podman, driver_status=status)
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        assert await engine.store() is store
    assert ("GET info" in fake.asked) is not podman


async def test_a_pull_is_by_digest_and_verified_by_the_image(fake: FakeEngine, engine: Engine) -> None:
    """A pull is by digest with the login, reports each step, and is verified by the image's presence."""
    id_ = fake.image("app", pulled=(str(PULLED),))
    fake.progress = [{"status": "Downloading", "id": "ab", "progressDetail": {"current": 5, "total": 9}}]
    reported: list[EngineProgress] = []
    found = await engine.pull(BOTH, platform="linux/arm64", login=Login("ci", "secret"), progress=reported.append)

    at = fake.asked.index("POST images/create")
    sent = json.loads(base64.urlsafe_b64decode(fake.headers[at]["X-Registry-Auth"]))
    assert (str(found.id), reported) == (id_, [EngineProgress("Downloading", "ab", 5, 9)])
    assert fake.queries[at] == {"fromImage": str(PULLED), "platform": "linux/arm64"}
    assert sent == {"username": "ci", "password": "secret", "serveraddress": "localhost:5000"}


async def test_a_pull_without_the_image_at_the_end_has_failed(engine: Engine) -> None:
    """If the image is absent after a pull, the pull failed, whatever the stream reported."""
    with pytest.raises(NoSuchImage):
        await engine.pull(BOTH)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("write /var/lib/docker/tmp: no space left on device", EngineFull),
        ("manifest unknown", NoSuchImage),
        ("received unexpected HTTP status: 503", EngineFailed),
    ],
)
async def test_a_failure_within_the_stream_is_raised(
    fake: FakeEngine, engine: Engine, message: str, kind: type[Exception]
) -> None:
    """An error within a pull's stream, after status 200, is raised."""
    fake.progress = [{"status": "Downloading"}, {"errorDetail": {"message": message}, "error": message}]

    with pytest.raises(kind, match=message):
        await engine.pull(BOTH)


def test_a_login_is_never_shown() -> None:
    """Neither the password nor the token of a login is shown."""
    assert repr(Login("ci", "secret", "token")) == "Login(username='ci')"


async def test_untag_removes_only_the_tag(fake: FakeEngine, engine: Engine) -> None:
    """A tag is removed without its image; the last tag only on request, since the image goes with it."""
    kept = Reference.parse("localhost:5000/shop/app:boltseal-keep-1")
    id_ = fake.image("app", str(APP))
    with pytest.raises(EngineRefused, match="is the last tag of its image"):
        await engine.untag(APP)
    await engine.tag(APP, kept)
    await engine.untag(APP)

    assert fake.images[id_]["RepoTags"] == [str(kept)]
    assert fake.queries[-1] == {"force": "0", "noprune": "1"}


async def test_an_image_is_saved_and_loaded(fake: FakeEngine, engine: Engine, tmp_path: Path) -> None:
    """An image that is saved and loaded has the same bytes."""
    fake.image("app", str(APP))
    await engine.save(APP, tmp_path / "app.tar")
    await engine.load(tmp_path / "app.tar")

    assert fake.loaded == [b"archive"]


async def test_a_refused_archive_is_an_error(fake: FakeEngine, engine: Engine, tmp_path: Path) -> None:
    """An archive refused within Docker's stream is an error."""
    (tmp_path / "app.tar").write_bytes(b"archive")
    fake.progress = [{"error": "unexpected EOF"}]

    with pytest.raises(EngineFailed, match="unexpected EOF"):
        await engine.load(tmp_path / "app.tar")


async def test_a_vanished_object_is_a_miss(engine: Engine) -> None:
    """Only a missing object is a miss."""
    with pytest.raises(NoSuchImage):
        await engine.image(APP)
    with pytest.raises(NoSuchContainer, match="no such container"):
        await engine.container("0" * 64)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Wrong(500, b'{"message": "\\u001b[31mdisk"}'), r"the engine failed: \"\\x1b\[31mdisk\""),
        (Wrong(500, b'{"message":"no TLS"}', "text/plain"), 'the engine failed: "no TLS"'),
        (Wrong(500, b'{"massage": 1}', "text/plain"), "massage"),
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
async def test_a_wrong_answer_is_an_error(fake: FakeEngine, engine: Engine, wrong: Wrong, message: str) -> None:
    """A wrong answer is a one-line error, and no image is returned."""
    fake.wrong[f"images/{APP}/json"] = wrong

    with pytest.raises((EngineFailed, EngineMismatch), match=message) as error:
        await engine.image(APP)
    assert exit_code(error.value) is ExitCode.UNKNOWN


async def test_an_endless_progress_line_is_refused(fake: FakeEngine, engine: Engine) -> None:
    """A progress line of more than 64 KiB is refused."""
    fake.wrong["images/create"] = Wrong(200, b" " * 65536 + b"x", endless=True)

    with pytest.raises(EngineMismatch, match="a line longer than 64 KiB"):
        await engine.pull(BOTH)


@pytest.mark.parametrize("id_", ["../../images/json", "a b", "", "A" * 64])
async def test_a_container_id_like_a_path_is_refused(fake: FakeEngine, engine: Engine, id_: str) -> None:
    """A container ID that looks like a path is refused before any request."""
    fake.containers[id_] = {}

    with pytest.raises(EngineMismatch, match="expected 64 hex digits"):
        await engine.container_ids()


async def test_an_api_version_like_a_path_is_refused(tmp_path: Path) -> None:
    """An API version that looks like a path is never sent."""
    async with FakeEngine(api="1.45/../../secrets").listening(tmp_path) as address:
        with pytest.raises(EngineMismatch, match="reports API version"):
            async with connected(address):
                pass


async def test_an_address_without_an_engine_is_unavailable(tmp_path: Path) -> None:
    """A missing socket, a plain file or a closed port is an unavailable engine."""
    (tmp_path / "file").write_text("")
    for text in (f"unix://{tmp_path}/none", f"unix://{tmp_path}/file", "tcp://127.0.0.1:1"):
        with pytest.raises(EngineUnavailable, match=r"no engine listens at .*; is Docker running"):
            async with connected(EngineAddress.parse(text)):
                pass


async def test_missing_certificates_are_an_error(tmp_path: Path) -> None:
    """Without the required certificates, nothing is sent unencrypted."""
    with pytest.raises(EngineUnavailable, match=r"ca.pem, cert.pem and key.pem can't be used"):
        async with connected(EngineAddress.parse("tcp://127.0.0.1:1", tmp_path)):
            pass


async def test_slow_containers_time_out_together(fake: FakeEngine, engine: Engine) -> None:
    """The time limit applies to all containers together, not only to each."""
    id_ = fake.container("web", "app", fake.image("app"))
    fake.wrong[f"containers/{id_}/json"] = Wrong(200, b" ", endless=True)

    with pytest.raises(EngineUnavailable, match=r"did not report its containers within 0\.2 s"):
        await engine.containers(within_s=0.2)
