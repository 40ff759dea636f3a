"""A release for tests."""

from __future__ import annotations

from boltseal.deploy.releases import (
    Release,
    ReleasedService,
    ReleaseEnd,
    ReleaseKind,
    ReleaseStep,
)

DIGEST = f"sha256:{'a' * 64}"


def release(number: int, end: ReleaseEnd | None = ReleaseEnd.HEALTHY, of: int | None = None) -> Release:
    """Return a release of two services."""
    services = tuple(
        ReleasedService(name=name, image=f"localhost:5000/shop/{name}:1.0.0", digest=DIGEST, image_id=DIGEST)
        for name in ("app", "db")
    )
    step = ReleaseStep.WAITING if end is None else ReleaseStep.ENDED
    kind = ReleaseKind.DEPLOY if of is None else ReleaseKind.ROLLBACK
    return Release(
        project="shop",
        number=number,
        kind=kind,
        directory="/srv/shop",
        started_us=number,
        who="ann@host",
        of=of,
        step=step,
        end=end,
        services=services,
    )
