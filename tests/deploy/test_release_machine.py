"""Any sequence of deploys, failures, rollbacks and kills of a Compose project, on both image stores of Docker."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import precondition, rule

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.deployer import OtherFolder
from boltseal.engines.inventory import ImageStoreKind
from tests.deploy.killable_project import Shop
from tests.deploy.release_machine import ReleaseMachine


class ComposeMachine(ReleaseMachine):
    """The machine on an engine, with what only Compose projects have."""

    store = ImageStoreKind.CLASSIC
    shop: Shop

    def open(self) -> Shop:
        return Shop(self.store)

    @precondition(lambda self: self.new is None)
    @rule()
    def other_folder(self) -> None:
        """A project of this name from another folder is refused."""
        self.shop.version(good=True, job=True, ports=False, scale=1)
        project = self.shop.project
        other = self.shop.root / "elsewhere"
        other.mkdir(exist_ok=True)
        (other / "compose.yaml").write_bytes(project.files[0].read_bytes())
        self.shop.project = ProjectFiles(other, (other / "compose.yaml",))
        with pytest.raises(OtherFolder):
            self.shop.deploy()
        self.shop.project = project

    @rule()
    def prune(self) -> None:
        """`docker image prune`."""
        self.shop.prune()


class ContainerdMachine(ComposeMachine):
    """The machine on containerd's store."""

    store = ImageStoreKind.CONTAINERD


FEW = settings(
    max_examples=8, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestClassicReleases = ComposeMachine.TestCase
TestClassicReleases.settings = FEW
TestContainerdReleases = ContainerdMachine.TestCase
TestContainerdReleases.settings = FEW
