"""What `deploy`, `update` and `rollback` print of a release."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from boltseal.cli.output import CommandOutput
from boltseal.cli.release_output import print_release
from boltseal.deploy.release_flow import DeployResult, Failure, ReleaseOutcome
from boltseal.deploy.releases import ReleaseEnd
from tests.deploy.samples import release

WHY = "Compose could not start services: Error response from daemon: no such network"


@pytest.mark.parametrize(("back", "times"), [(None, 1), (1, 1)])
def test_the_reason_of_a_failed_release_is_printed_once(
    back: int | None, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is printed on stdout if no former release runs again, and otherwise on stderr beside the line about
    that release."""
    failed = replace(release(2, ReleaseEnd.FAILED if back is None else ReleaseEnd.PUT_BACK), reason=WHY)
    outcome = ReleaseOutcome(failed, (Failure("", WHY, ("last words",)),), back)
    print_release(CommandOutput("deploy", as_json=False), DeployResult(failed, outcome))
    printed = capsys.readouterr()

    assert (printed.out + printed.err).count(WHY) == times
    assert "last words" in printed.err


def test_the_digest_of_a_pinned_image_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of a release shows a pinned image without its digest, which has a column of its own."""
    made = release(1)
    pinned = [replace(each, image=f"{each.image}@{each.digest}") for each in made.services]
    done = made.with_services(pinned)
    print_release(CommandOutput("deploy", as_json=False), DeployResult(done, ReleaseOutcome(done)))
    printed = capsys.readouterr().out

    assert [printed.count(each.image) for each in made.services] == [1] * len(made.services)
    assert printed.count("sha256:") == len(made.services)
