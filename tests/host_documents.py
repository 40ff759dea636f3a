"""Reports of hosts as commands send them, for tests."""

from __future__ import annotations

from typing import Any

NO_COUNTS = {"holds": 0, "differs": 0, "unknown": 0}


def running(reference: str, *digests: str, **more: Any) -> dict[str, Any]:
    """Return the image of a container."""
    return {"reference": reference, "digests": list(digests), "state": "running", **more}


def report(host: str, *images: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a report of `ps` as JSON."""
    return {
        "v": 1,
        "kind": "ps",
        "host": host,
        "registry": "registry.example",
        "subject": "unix:///run/docker.sock",
        "time": "2026-12-02T10:00:00Z",
        "every_s": 86400,
        "complete": True,
        "outcome": "holds",
        "counts": NO_COUNTS,
        "images": list(images),
        **more,
    }


def release(project: str, number: int, *images: dict[str, Any], end: str = "healthy", **more: Any) -> dict[str, Any]:
    """Return the parts of a report of `deploy`, for `report`."""
    ended = {"started": "2026-12-02T09:00:00Z", "ended": "2026-12-02T09:01:00Z", "reason": "", **more}
    return {
        "kind": "deploy",
        "subject": project,
        "every_s": None,
        "complete": end == "healthy",
        "images": list(images),
        "release": {"number": number, "end": end, "kind": "deploy", "by": "ann", **ended},
    }
