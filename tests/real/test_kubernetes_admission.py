"""The kustomize base of packaging/kubernetes-admission: built by kubectl, compared with what the webhook judges and with its options."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from boltseal import __version__
from boltseal.deploy.kube.admission_review import POD_SPECS
from tests.cli import program
from tests.docs.pages import ROOT
from tests.real.kustomized import IMAGE, built

pytestmark = pytest.mark.real
BASE = ROOT / "packaging/kubernetes-admission"
OWN = "boltseal-admission"


def webhooks(documents: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the two webhooks."""
    kinds = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    return [one for kind in kinds for one in documents[kind]["webhooks"]]


def test_a_cluster_can_always_start() -> None:
    """The two webhooks leave kube-system and their own namespace alone, and everything of the base is in that namespace."""
    documents = built(BASE)

    for webhook in webhooks(documents):
        (expression,) = webhook["namespaceSelector"]["matchExpressions"]
        assert expression == {
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": ["kube-system", OWN],
        }
        service = webhook["clientConfig"]["service"]
        assert (service["namespace"], service["name"]) == (OWN, documents["Service"]["metadata"]["name"])
    assert documents["Namespace"]["metadata"]["name"] == OWN
    assert {documents[kind]["metadata"]["namespace"] for kind in ("Deployment", "Service", "ConfigMap")} == {OWN}


def test_both_webhooks_are_asked_about_every_kind_that_is_judged() -> None:
    """The resources of the rules are the kinds of the code and ephemeral containers, in both configurations, and fail closed."""
    mutating, validating = webhooks(built(BASE))
    resources = {each for rule in mutating["rules"] for each in rule["resources"]}

    assert mutating["rules"] == validating["rules"]
    assert resources == {f"{kind.lower()}s" for kind in POD_SPECS} | {"pods/ephemeralcontainers"}
    assert {operation for rule in mutating["rules"] for operation in rule["operations"]} == {"CREATE", "UPDATE"}
    for webhook, path in ((mutating, "/mutate"), (validating, "/validate")):
        assert webhook["clientConfig"]["service"]["path"] == path
        assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Fail", "None")
        assert webhook["admissionReviewVersions"] == ["v1"]
        assert webhook["matchPolicy"] == "Equivalent"


def test_the_pod_runs_the_command_without_privileges() -> None:
    """The container's options are those of the command; it is not root, read-only, without capabilities or a cluster token."""
    documents = built(BASE)
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    word, *options = container["args"]
    help_text = program.call(word, "--help").out
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    files = [value for each in options if (value := each.partition("=")[2]).startswith("/")]

    assert all(each.partition("=")[0] in help_text for each in options), shlex.join(options)
    assert all(any(file.startswith(f"{path}/") for path in mounted) for file in files)
    assert container["image"] == f"{IMAGE}:{__version__}"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert documents["Deployment"]["spec"]["replicas"] > documents["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_the_base_trusts_nothing_by_itself() -> None:
    """The list of the base names no ledger, so a cluster that applies it without an overlay does not trust a key of ours."""
    (name,) = built(BASE)["ConfigMap"]["data"]

    assert name == "trusted"
    assert all(line.startswith("#") for line in (BASE / "trusted").read_text().splitlines())
