"""Objects of a cluster, and AdmissionReviews of them as the API server sends them."""

from __future__ import annotations

import json
from typing import Any, Final

from boltseal.deploy.kube.admission_review import POD_SPECS

UID: Final = "705ab4f5-6393-11e8-b7cc-42010a800002"


def object_of(kind: str, spec: object, **metadata: object) -> dict[str, Any]:
    """Return an object of a kind, with the specification of its pods where the Kubernetes API has it."""
    found: Any = spec
    for word in reversed(POD_SPECS[kind]):
        found = {word: found}
    return {"kind": kind, "metadata": {"name": "web", **metadata}, **found}


def review(shown: object, before: object = None, operation: str = "CREATE", **request: object) -> bytes:
    """Return a review as the API server sends it (the example in the Kubernetes documentation, shortened)."""
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": UID,
                "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
                "name": "web",
                "namespace": "shop",
                "operation": operation,
                "userInfo": {"username": "admin"},
                "object": shown,
                "oldObject": before,
                "dryRun": False,
            }
            | request,
        }
    ).encode()
