"""Which services of a release are completed jobs, which a rollback does not run again."""

from __future__ import annotations

from typing import Any

import pytest

from boltseal.deploy.health import SERVICE
from boltseal.deploy.jobs import mark_completed_jobs, skip_completed_jobs, skipped_jobs
from boltseal.deploy.releases import Release, ReleasedService, ReleaseEnd, ReleaseKind, ReleaseStep, ServiceState
from boltseal.engines.inventory import EngineContainer, State
from boltseal.oci.digest import Digest

DIGEST = f"sha256:{'a' * 64}"
AWAITED = {"depends_on": {"job": {"condition": "service_completed_successfully", "required": True}}}


def release(end: ReleaseEnd = ReleaseEnd.HEALTHY, chosen: tuple[str, ...] = ()) -> Release:
    """Return a release with a service and a job."""
    services = tuple(
        ReleasedService(name=name, image="localhost:5000/shop/app:1.0.0", image_id=DIGEST, state=ServiceState.HEALTHY)
        for name in ("job", "web")
    )
    return Release(
        project="shop",
        number=7,
        kind=ReleaseKind.DEPLOY,
        directory="/srv/shop",
        started_us=1,
        who="ann@host",
        step=ReleaseStep.ENDED,
        end=end,
        services=services,
        chosen=chosen,
    )


def document(job: dict[str, Any] | None = None, web: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the text of such a release."""
    return {"name": "shop", "services": {"job": job or {}, "web": web or {}}}


def containers(exit_code: int | None = 0, state: State = State.EXITED) -> list[EngineContainer]:
    """Return the job's exited container and the service's running one."""
    return [container("job", state, exit_code), container("web", State.RUNNING, None)]


def container(service: str, state: State, exit_code: int | None) -> EngineContainer:
    """Return a container of a service."""
    image = Digest.parse(DIGEST)
    return EngineContainer("1" * 64, service, "app:1", image, state, exit_code=exit_code, labels={SERVICE: service})


def completed(found: Release) -> list[str]:
    """Return the services that a release records as completed."""
    return [each.name for each in found.services if each.state is ServiceState.COMPLETED]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"restart": "no"},
        {"restart": "on-failure:3"},
        {"deploy": {"restart_policy": {"condition": "on-failure"}}},
        {"deploy": {"restart_policy": {"condition": "none"}}},
        {"restart": "no", "deploy": {"restart_policy": {"condition": "any"}}},
        {"deploy": {"replicas": 1}},
    ],
)
def test_a_service_that_exited_with_0_is_a_job(fields: dict[str, Any]) -> None:
    """A service that exited with 0 is a job, even if no other service depends on it."""
    assert completed(mark_completed_jobs(release(), document(job=fields), containers())) == ["job"]


@pytest.mark.parametrize(
    "fields",
    [
        {"restart": "always"},
        {"restart": "unless-stopped"},
        {"deploy": {"restart_policy": {"condition": "any"}}},
        {"deploy": {"restart_policy": {"max_attempts": 3}}},
    ],
)
def test_a_restarted_service_is_not_a_job(fields: dict[str, Any]) -> None:
    """A service with a restart policy is not a job: it may only be between two runs."""
    assert completed(mark_completed_jobs(release(), document(job=fields), containers())) == []


@pytest.mark.parametrize(
    "fields", [{"volumes_from": ["job:ro"]}, {"network_mode": "service:job"}, {"ipc": "service:job"}]
)
def test_a_container_that_another_service_uses_is_started(fields: dict[str, Any]) -> None:
    """An exited container whose namespace another service uses is started, because Compose needs it."""
    assert completed(mark_completed_jobs(release(), document(web=fields), containers())) == []


@pytest.mark.parametrize(("exit_code", "state"), [(1, State.EXITED), (None, State.RUNNING), (0, State.DEAD)])
def test_a_job_that_did_not_exit_with_0_has_not_completed(exit_code: int | None, state: State) -> None:
    """A job that failed or still runs has not completed."""
    assert completed(mark_completed_jobs(release(), document(), containers(exit_code, state))) == []


def test_a_job_that_was_not_started_is_ignored() -> None:
    """Jobs outside of the deployed services are not recorded."""
    assert completed(mark_completed_jobs(release(chosen=("web",)), document(), containers())) == []


def test_a_job_that_a_healthy_release_waited_for_has_completed() -> None:
    """A job that a healthy service waited for has completed, even if the record does not state it."""
    back = skip_completed_jobs(release(), document(web=AWAITED))

    assert completed(back) == ["job"]
    assert back.to_start == ("web",)
    assert skipped_jobs(back) == ("job (completed in release 7)",)


def test_a_release_that_failed_has_no_completed_jobs() -> None:
    """A failed release has no completed jobs, so that a rollback runs them again."""
    back = skip_completed_jobs(release(ReleaseEnd.FAILED), document(web=AWAITED))

    assert completed(back) == []
    assert back.to_start == ("job", "web")


def test_a_job_stays_completed_through_rollbacks() -> None:
    """After rollbacks a completed job is recorded with the release that ran it."""
    once = skip_completed_jobs(release(), document(web=AWAITED))
    twice = skip_completed_jobs(once, document(web=AWAITED))

    assert skipped_jobs(twice) == ("job (completed in release 7)",)


def test_a_service_that_others_only_wait_to_start_is_not_a_job() -> None:
    """A service that others only wait to start is not a job, since the release needed it running."""
    web = {"depends_on": {"job": {"condition": "service_started"}}}

    assert completed(skip_completed_jobs(release(), document(web=web))) == []
