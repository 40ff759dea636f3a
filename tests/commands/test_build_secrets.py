"""The remark of `boltseal build` about inputs that its hash does not cover."""

from __future__ import annotations

import pytest

from boltseal.commands.build_inputs import unhashed_inputs


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--secret", "id=npm,src=/run/npm"], "--secret"),
        (["--secret=id=npm", "--ssh=default"], "--secret and --ssh"),
        (["--ssh", "default"], "--ssh"),
        (["--build-context", "shared=../shared", "-v", "/srv:/srv"], "--build-context and -v"),
        (
            ["--ssh=default", "--secret=id=npm", "--build-arg", "TOKEN"],
            "--secret, --ssh and --build-arg without a value",
        ),
        (["--build-arg=TOKEN"], "--build-arg without a value"),
    ],
)
def test_secrets_are_reported_as_no_inputs(more: list[str], named: str) -> None:
    """A build that reads secrets, SSH keys, other folders or the environment reports that these are not inputs, and what to do."""
    assert unhashed_inputs(more) == f"; the contents of {named} are not inputs: if they changed, build with --force"


@pytest.mark.parametrize(
    "more", [[], ["--no-cache"], ["--label", "--secretive"], ["--build-arg", "A=1"], ["--build-arg=A="]]
)
def test_a_build_without_secrets_has_no_remark(more: list[str]) -> None:
    """A build without secrets has no remark."""
    assert unhashed_inputs(more) == ""
