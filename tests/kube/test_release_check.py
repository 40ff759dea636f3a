"""What the pods of a cluster run, compared with the release that is recorded there. Pure."""

from __future__ import annotations

import msgspec
import pytest

from boltseal.deploy.kube.release_check import ReleaseCheck
from boltseal.deploy.releases import Release, ReleasedService, ReleaseEnd, ReleaseKind, ReleaseStep, ServiceState
from boltseal.host.containers.hosts import RunningContainer, parse_image_name
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.container_check import ContainerStatus, DigestKind, RunningImage
from boltseal.lockfile.document import Lock, LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Reference

NAME = "registry.example.com/shop/web:1.0"
INDEX, MANIFEST, IMAGE_ID, OTHER = (Digest.of(each) for each in (b"index", b"manifest", b"image ID", b"other"))
ARM = LockedPlatform("linux/arm64", Digest.of(b"manifest arm64"), Digest.of(b"image ID arm64"))
PLATFORMS = (LockedPlatform("linux/amd64", MANIFEST, IMAGE_ID), ARM)
LOCK = Lock((LockedImage(Reference.parse(NAME), INDEX, 0, OCI_INDEX, PLATFORMS),))
ASKED = f"{NAME}@{INDEX}"


def _release(*names: str, number: int = 3, digest: Digest = INDEX) -> Release:
    services = tuple(
        ReleasedService(name=each, image=NAME, digest=str(digest), image_id=str(digest))
        for each in names or ("deployment/web/app",)
    )
    return Release(
        project="shop",
        number=number,
        kind=ReleaseKind.DEPLOY,
        directory="/srv/shop",
        engine="kube:prod/shop",
        started_us=1,
        who="ann@host",
        step=ReleaseStep.ENDED,
        end=ReleaseEnd.HEALTHY,
        services=services,
    )


def _seen(
    digest: Digest | None = INDEX,
    asked: str = ASKED,
    *,
    of: str = "deployment/web",
    kind: DigestKind = DigestKind.UNSPECIFIED,
    pod: str = "shop/web-5d9-x",
    waiting: str = "",
    deleted: bool = False,
) -> RunningContainer:
    return RunningContainer(
        host="prod",
        name=f"{pod}/app",
        id="1",
        started_as=asked,
        image=RunningImage(parse_image_name(asked), {} if digest is None else {digest: kind}, machine="linux/amd64"),
        runtime="containerd",
        node="node-a",
        service=f"{of}/app" if of else "",
        waiting=waiting,
        deleted=deleted,
    )


STATUS, WEIGHT = ContainerStatus, Weight


@pytest.mark.parametrize(
    ("seen", "status", "weight", "reason"),
    [
        (_seen(), STATUS.HOLDS, WEIGHT.HOLDS, ""),
        (_seen(MANIFEST), STATUS.HOLDS, WEIGHT.HOLDS, ""),
        (_seen(IMAGE_ID, kind=DigestKind.IMAGE_ID), STATUS.HOLDS, WEIGHT.HOLDS, ""),
        (_seen(ARM.manifest), STATUS.OTHER_PLATFORM, WEIGHT.DIFFERS, "its host is linux/amd64"),
        (_seen(OTHER), STATUS.OTHER_IMAGE, WEIGHT.DIFFERS, f"its node runs {OTHER}, and it was asked for {INDEX}"),
        (_seen(OTHER, kind=DigestKind.IMAGE_ID), STATUS.OTHER_IMAGE, WEIGHT.DIFFERS, "its node runs"),
        (_seen(OTHER, f"{NAME}@{OTHER}"), STATUS.NOT_AS_RELEASED, WEIGHT.DIFFERS, f"its pod asks for {OTHER}"),
        (_seen(INDEX, NAME), STATUS.NOT_AS_RELEASED, WEIGHT.DIFFERS, "its pod asks for no digest"),
        (_seen(None, waiting="ErrImagePull: no route"), STATUS.UNKNOWN, WEIGHT.UNKNOWN, "no image yet: ErrImagePull"),
        (_seen(None), STATUS.UNKNOWN, WEIGHT.UNKNOWN, "no image yet: it has just started"),
        (_seen(OTHER, deleted=True), STATUS.DELETED, WEIGHT.NOTE, "its pod is being deleted"),
        (_seen(of="deployment/theirs"), STATUS.NOT_IN_RELEASE, WEIGHT.NOTE, "release 3 of shop has no such container"),
        (_seen(pod="tools/web-5d9-x"), STATUS.NOT_IN_RELEASE, WEIGHT.NOTE, "has no such container"),
    ],
)  # fmt: skip
def test_a_container_is_compared_with_the_release(
    seen: RunningContainer, status: ContainerStatus, weight: Weight, reason: str
) -> None:
    """What the pod asks for and what its node reports are both the release's image, on any runtime."""
    row = ReleaseCheck(_release(), "shop", LOCK).row(seen)

    assert row.verdict is not None
    assert (row.verdict.status, row.verdict.weight) == (status, weight)
    assert reason in row.verdict.reason
    assert (row.deployed is not None) is (weight is Weight.HOLDS)


def test_without_a_lock_an_image_id_could_not_be_checked() -> None:
    """The release's digest is still compared; an image ID alone says nothing about it."""
    check = ReleaseCheck(_release(), "shop")
    verdicts = [check.row(each).verdict for each in (_seen(), _seen(IMAGE_ID, kind=DigestKind.IMAGE_ID), _seen(OTHER))]

    assert [each.weight for each in verdicts if each is not None] == ["holds", "unknown", "differs"]


def test_an_unfinished_release_is_no_difference_and_no_success() -> None:
    """A pod with the image of a release that was killed could not be checked: which one is to run is not decided."""
    later = msgspec.structs.replace(_release(number=4, digest=OTHER), step=ReleaseStep.STARTING, end=None)
    verdict = ReleaseCheck(_release(), "shop", LOCK, later).row(_seen(OTHER, f"{NAME}@{OTHER}")).verdict

    assert verdict is not None
    assert (verdict.weight, verdict.reason) == ("unknown", "release 4 has this image and is unfinished (starting)")


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("job/migrate/app", _seen(of="job/migrate-r3")),
        ("cronjob/backup/app", _seen(of="job/backup-29411000")),
        ("pod/debug/app", _seen(of="", pod="shop/debug")),
        ("tools/deployment/web/app", _seen(pod="tools/web-5d9-x")),
    ],
)
def test_containers_are_found_by_their_workload(name: str, seen: RunningContainer) -> None:
    """The pods of jobs, of single pods and of other namespaces belong to the release."""
    check = ReleaseCheck(_release(name), "shop", LOCK)
    row = check.row(seen)

    assert row.verdict is not None
    assert row.verdict.status is ContainerStatus.HOLDS
    assert check.missing([row]) == ()


def test_what_has_no_pod_is_missing() -> None:
    """A workload without a pod is named; jobs end, and zero replicas have none."""
    names = ("deployment/web/app", "statefulset/db/app", "cronjob/backup/app", "job/migrate/app", "deployment/off/app")
    release = _release(*names)
    changed = [
        msgspec.structs.replace(release.services[3], state=ServiceState.COMPLETED),
        msgspec.structs.replace(release.services[4], containers=0),
    ]
    check = ReleaseCheck(release.with_services(changed), "shop", LOCK)

    assert check.missing([check.row(_seen())]) == ("statefulset/db/app",)
    assert check.namespaces == ("shop",)
    assert ReleaseCheck(_release("tools/deployment/web/app", "job/a/app"), "shop").namespaces == ("shop", "tools")
