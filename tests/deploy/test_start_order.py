"""In which order services start, and which of them may run beside their former containers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.deploy.start_order import Batch, batches, dependencies, stop_first_reason, waited_jobs

HEALTHY = {"condition": "service_healthy"}
COMPLETED = {"condition": "service_completed_successfully"}
VOLUME = {"type": "volume", "source": "data", "target": "/data"}


def project(**services: dict[str, Any]) -> dict[str, Any]:
    """Return a project's text."""
    return {"name": "shop", "services": services}


def container(*mounts: dict[str, Any], **host: Any) -> dict[str, Any]:
    """Return what an engine reports about a container."""
    return {"Mounts": list(mounts), "HostConfig": host}


def test_nothing_forbids_a_plain_service() -> None:
    """A service without ports, fixed names and writable volumes can run beside its former containers."""
    web = {"networks": {"default": None, "back": {"aliases": ["w"]}}, "volumes": [{**VOLUME, "read_only": True}]}

    assert stop_first_reason(project(web=web), "web", [container()]) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ports": [{"target": 80}]}, "it publishes ports"),
        ({"container_name": "web"}, "it has a container_name"),
        ({"network_mode": "host"}, "it uses the host's network"),
        ({"network_mode": "service:db"}, "it uses another container's namespaces or volumes"),
        ({"pid": "container:x"}, "it uses another container's namespaces or volumes"),
        ({"volumes_from": ["db"]}, "it uses another container's namespaces or volumes"),
        ({"mac_address": "02:42:ac:11:00:02"}, "it has a fixed address"),
        ({"networks": {"a": {"ipv4_address": "10.0.0.2"}}}, "it has a fixed address"),
        ({"volumes": [{"type": "volume", "target": "/data"}]}, "it has an anonymous volume"),
        ({"volumes": [VOLUME]}, "it can write to data"),
        ({"volumes": [{"type": "bind", "source": "/srv/x", "target": "/x"}]}, "it can write to /srv/x"),
        ({"deploy": {"update_config": {"order": "stop-first"}}}, "deploy.update_config.order is stop-first"),
    ],
)
def test_what_forbids_to_start_first(fields: dict[str, Any], reason: str) -> None:
    """What two containers can't have at once, or should not write to at once, forbids to start the new one first."""
    assert stop_first_reason(project(web=fields, db={}), "web", []) == reason


def test_the_file_may_allow_two_writers_but_no_port_twice() -> None:
    """`update_config.order: start-first` allows a shared writable volume, but nothing that is impossible."""
    order = {"deploy": {"update_config": {"order": "start-first"}}, "volumes": [VOLUME]}

    assert stop_first_reason(project(web=order), "web", []) == ""
    assert stop_first_reason(project(web={**order, "ports": [{"target": 80}]}), "web", []) == "it publishes ports"


def test_a_service_whose_container_another_one_uses_stops_first() -> None:
    """A container whose namespaces others use, or with which others restart, is replaced in Compose's own way."""
    uses = project(web={}, side={"network_mode": "service:web"})
    restarts = project(web={}, side={"depends_on": {"web": {"condition": "service_started", "restart": True}}})

    assert stop_first_reason(uses, "web", []) == "side uses its namespaces or volumes"
    assert stop_first_reason(restarts, "web", []) == "side is restarted with it"


def test_an_anonymous_volume_of_the_image_is_handed_on() -> None:
    """A volume that the image declares is handed on by Compose, so its data must not be left behind."""
    volume = {"Type": "volume", "Name": "f" * 64, "Destination": "/var/lib/db"}

    assert stop_first_reason(project(db={}), "db", [container(volume)]) == "it has an anonymous volume"
    assert stop_first_reason(project(db={}), "db", [container(volume, Binds=["data:/var/lib/db:rw"])]) == ""
    named = [{"Type": "volume", "Source": "data", "Target": "/var/lib/db"}]
    assert stop_first_reason(project(db={}), "db", [container(volume, Mounts=named)]) == ""


def test_jobs_are_ordered_by_their_dependencies() -> None:
    """Jobs that others wait for run in the order of their dependencies; other services are not jobs."""
    text = project(
        a={"depends_on": {"b": COMPLETED}}, b={"depends_on": {"c": COMPLETED, "db": HEALTHY}}, c={}, db={}
    )  # fmt: skip

    assert waited_jobs(text, ["a", "b", "c", "db"]) == ("c", "b")
    assert waited_jobs(text, ["a", "b"]) == ("b",)
    assert dependencies(text, "a") == {"b", "c", "db"}


def test_a_service_waits_for_changed_dependencies_that_stop_first() -> None:
    """Services that start first come before others, unless a changed dependency has to be replaced before."""
    text = project(web={"depends_on": {"api": HEALTHY}}, api={"depends_on": {"db": HEALTHY}}, db={}, lone={})

    assert batches(text, ["web", "api", "db", "lone"], ["web", "api", "lone"]) == (
        Batch(("lone",), beside=True),
        Batch(("db",), beside=False),
        Batch(("api",), beside=True),
        Batch(("web",), beside=True),
    )
    assert batches(text, ["web", "api", "db"], []) == (Batch(("api", "db", "web"), beside=False),)
    assert batches(text, [], []) == ()


@given(
    edges=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5))),
    changed=st.sets(st.integers(0, 5)),
    first=st.sets(st.integers(0, 5)),
)
def test_each_service_is_replaced_once_and_after_its_dependencies(
    edges: set[tuple[int, int]], changed: set[int], first: set[int]
) -> None:
    """Each changed service is in one batch; a service that starts first comes after all its changed dependencies."""
    text = project(
        **{f"s{n}": {"depends_on": {f"s{to}": HEALTHY for of, to in edges if of == n and to < n}} for n in range(6)}
    )
    names, beside = {f"s{n}" for n in changed}, {f"s{n}" for n in first}
    found = batches(text, names, beside)
    order = [name for batch in found for name in batch.names]

    assert sorted(order) == sorted(names)
    for index, batch in enumerate(found):
        later = {name for each in found[index:] for name in each.names}
        assert batch.beside == bool(set(batch.names) <= beside)
        for name in batch.names:
            assert not dependencies(text, name) & (later - (set() if batch.beside else set(batch.names)))
