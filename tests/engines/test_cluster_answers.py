"""What an API server returns is not trusted: an identity that can't be one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from boltseal.deploy.kube.cluster_failures import failure_of
from boltseal.deploy.kube.rollout import Rollout, RolloutState
from boltseal.engines.cluster import Cluster, ObjectId, uid_of
from boltseal.engines.kubernetes import ClusterMismatch


@pytest.mark.parametrize("uid", ["../../etc", "/etc", "a/b", ".", "..", "a\n", "", "x" * 129, 7, ["a"], {}])
def test_a_uid_that_could_be_a_path_is_refused(uid: Any) -> None:
    """A UID becomes the name of a folder, so it has only letters, digits and hyphens."""
    with pytest.raises(ClusterMismatch, match="invalid UID"):
        uid_of({"metadata": {"uid": uid}})


def test_a_uid_is_returned_as_it_is() -> None:
    """A UUID is a UID."""
    assert (
        uid_of({"metadata": {"uid": "0b5f2b0e-6b0e-4e0b-9d3c-0f5f2b0e6b0e"}}) == "0b5f2b0e-6b0e-4e0b-9d3c-0f5f2b0e6b0e"
    )


@pytest.mark.parametrize("document", [{}, {"metadata": {}}, {"metadata": {"uid": None}}, {"metadata": "text"}])
def test_an_object_without_a_uid_is_refused(document: Any) -> None:
    """An object that exists has a UID, which distinguishes it from another one of its name."""
    with pytest.raises(ClusterMismatch, match="without a UID"):
        uid_of(document)


class HostileCluster(Cluster):
    """A cluster whose API server answers with one pod that is no pod."""

    def read(self, path: str) -> Any:
        return {"kind": "PodList", "items": [{"metadata": ["web-1"], "status": {"containerStatuses": []}}]}


def test_pods_of_another_form_are_no_reason() -> None:
    """Why a workload failed is asked after the failure: an answer that cannot be one is reported, and the release is restored."""
    live = {"spec": {"selector": {"matchLabels": {"app": "web"}}}}
    object_id = ObjectId("apps/v1", "Deployment", "shop", "web")
    failure = failure_of(
        HostileCluster("attackers"), object_id, "deployment/web", live, Rollout(RolloutState.FAILED, "late")
    )

    assert failure.reason.startswith("late; its pods could not be read: the cluster's answer is malformed")
