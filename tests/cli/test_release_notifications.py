"""Notifications of releases to the receivers in the user's own settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.cli.context import client_context
from boltseal.commands.deploy import notify_release
from boltseal.commands.notifications import Notifications
from boltseal.deploy.release_flow import DeployResult, ReleaseOutcome
from boltseal.deploy.releases import Release, ReleasedService, ReleaseEnd, ReleaseKind, ReleaseStep
from boltseal.events import ReleaseDone
from tests.notify.receivers import HANGS, Inbox, inbox_in_thread

pytestmark = pytest.mark.slow

DIGEST = f"sha256:{'1' * 64}"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an empty home and state folder instead of those of the user who runs the tests."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "boltseal").mkdir(exist_ok=True)
    (tmp_path / "boltseal" / "boltseal.toml").write_text(text)


def deployed(end: ReleaseEnd, reason: str = "") -> DeployResult:
    service = ReleasedService(name="web", image="localhost:5000/shop/app:1.4.2", digest=DIGEST)
    release = Release(
        project="shop",
        number=7,
        kind=ReleaseKind.DEPLOY,
        directory="/srv/shop",
        started_us=1,
        who="me",
        step=ReleaseStep.ENDED,
        end=end,
        reason=reason,
        services=(service,),
    )
    return DeployResult(release, ReleaseOutcome(release))


def notified(tmp_path: Path, box: Inbox, done: DeployResult, host: str | None = None) -> None:
    configure(tmp_path, f'[[notify]]\nurl = "{box.url}"\n')
    notify_release(done, host, client_context())


def test_a_healthy_and_a_failed_release_are_notified(tmp_path: Path) -> None:
    """`release.done` has the images by digest, `release.failed` the reason, and both the host."""
    with inbox_in_thread() as box:
        notified(tmp_path, box, deployed(ReleaseEnd.HEALTHY), "ssh://web1.example.com")
        notified(tmp_path, box, deployed(ReleaseEnd.PUT_BACK, "web is unhealthy"))
    done, failed = box.events

    assert (done["type"], done["subject"]) == ("boltseal.release.done.v1", "shop/7")
    assert done["data"]["host"] == "ssh://web1.example.com"
    assert done["data"]["images"] == [f"localhost:5000/shop/app:1.4.2@{DIGEST}"]
    assert (failed["type"], failed["data"]["reason"]) == ("boltseal.release.failed.v1", "web is unhealthy")


def test_an_unchanged_release_is_not_notified(tmp_path: Path) -> None:
    """A deploy that changes nothing sends no event."""
    with inbox_in_thread() as box:
        notified(tmp_path, box, DeployResult(deployed(ReleaseEnd.HEALTHY).release))

    assert box.bodies == []


def test_a_failed_notification_does_not_change_the_result_of_a_deploy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The release runs, and a notice says that the notification was not sent."""
    configure(tmp_path, '[[notify]]\nurl_file = "/nowhere"\n')
    notify_release(deployed(ReleaseEnd.HEALTHY), None, client_context())

    assert "the notification of this release was not sent" in capsys.readouterr().err


def test_a_hanging_receiver_delays_a_command_only_briefly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A receiver that does not answer delays a command only briefly; undelivered events wait for the next command."""
    with inbox_in_thread(HANGS) as box:
        configure(tmp_path, f'[[notify]]\nurl = "{box.url}"\n')
        notifications = Notifications.of_user(client_context())
        notifications.put_now([ReleaseDone("shop", 7, "here", ())])
        notifications.deliver(1.0)

    assert "1 notification not delivered yet" in capsys.readouterr().err
