"""The state machine of releases on a cluster: deploys, failures, rollbacks, kills, holds, and changes that boltseal did not make."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.deploy.release_machine import ReleaseMachine
from tests.kube.release_driver import ClusterDriver

pytestmark = [pytest.mark.real, pytest.mark.slow]
FULL = os.environ.get("TEST_SCALE") == "full"


class ClusterMachine(ReleaseMachine):
    """The model of Compose projects. A first deploy that fails on a cluster has nothing to go back to, so the first one is good."""

    takes_over = False
    prune = None
    """`docker image prune` has no counterpart: a cluster's nodes pull by digest."""

    def open(self) -> ClusterDriver:
        return ClusterDriver()


TestClusterReleases = ClusterMachine.TestCase
TestClusterReleases.settings = settings(
    max_examples=25 if FULL else 2,
    stateful_step_count=12 if FULL else 6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.generate],  # each run of a sequence takes seconds: a failing one is printed as it is
)


def test_each_kind_of_step_in_one_sequence() -> None:
    """A bad version, a good one, a rollback, a change by hand, a kill and its continuation leave what the model says."""
    machine = ClusterMachine()
    try:
        machine.first(by_hand=False, ports=False)
        machine.deploy(good=False, job=True, ports=True, scale=2)
        machine.what_runs_is_as_expected()
        machine.deploy(good=True, job=True, ports=True, scale=2)
        machine.rollback()
        machine.what_runs_is_as_expected()
        machine.changed_by_hand()
        machine.killed(good=True, ports=False, steps=12)
        if machine.new is not None:
            machine.one_command_continues(how="rollback")
        machine.what_runs_is_as_expected()
    finally:
        machine.teardown()
