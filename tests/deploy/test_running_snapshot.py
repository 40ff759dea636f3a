"""Recipes of running containers: the requests that create them again."""

from __future__ import annotations

from typing import Any

from boltseal.deploy.running_snapshot import (
    RECIPES,
    dependency_order,
    matches,
    merge_recipes,
    network_request,
    networks_of,
    recipe,
    recipes_of,
    recorded_networks,
    request_body,
    value_paths,
)

ID, OTHER = "a" * 64, "b" * 64
LABELS = {
    "com.docker.compose.service": "web",
    "com.docker.compose.config-hash": "1234",
    "com.docker.compose.container-number": "1",
}


def document(**more: Any) -> dict[str, Any]:
    """Return what an engine reports about a container of Compose."""
    return {
        "Id": ID,
        "Name": "/shop-web-1",
        "Image": "sha256:" + "1" * 64,
        "Config": {"Hostname": ID[:12], "Image": "app:1", "Env": ["A=b"], "Labels": LABELS, "Volumes": {"/v": {}}},
        "HostConfig": {
            "NetworkMode": "shop_default",
            "Binds": ["/srv/s:/s:ro"],
            "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
        },
        "Mounts": [
            {"Type": "bind", "Source": "/srv/s", "Destination": "/s"},
            {"Type": "volume", "Name": "data", "Destination": "/data"},
            {"Type": "volume", "Name": "f" * 64, "Destination": "/v"},
        ],
        "NetworkSettings": {
            "Networks": {
                "shop_default": {"Aliases": [ID[:12], "web"], "IPAddress": "10.0.0.2", "IPAMConfig": None},
                "back": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.1.0.9"}, "MacAddress": "02:42"},
            }
        },
        **more,
    }


def test_a_recipe_has_what_the_container_was_created_with() -> None:
    """A recipe has settings, labels, name, networks and the anonymous volume, but no address that the engine chose."""
    made = recipe(document())

    assert (made["id"], made["name"]) == (ID, "shop-web-1")
    assert "Hostname" not in made["body"]
    assert made["body"]["Labels"] == LABELS
    assert made["body"]["HostConfig"]["Binds"] == ["/srv/s:/s:ro", f"{'f' * 64}:/v"]
    assert made["body"]["NetworkingConfig"] == {"EndpointsConfig": {"shop_default": {"Aliases": ["web"]}}}
    assert made["networks"] == {"back": {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.1.0.9"}}}
    assert networks_of([made]) == {"shop_default", "back"}


def test_a_host_name_that_was_set_stays() -> None:
    """A host name that a person set is part of the recipe."""
    found = document()
    found["Config"]["Hostname"] = "web1"

    assert recipe(found)["body"]["Hostname"] == "web1"


def test_a_container_without_a_network_of_its_own_has_no_endpoints() -> None:
    """A container on the host's or on no network, or on that of another container, is created without endpoints."""
    for mode in ("host", "none", f"container:{OTHER}"):
        made = recipe(document(HostConfig={"NetworkMode": mode}))

        assert "NetworkingConfig" not in made["body"]
        assert made["networks"] == {}


def test_references_to_recreated_containers_are_replaced() -> None:
    """Where a container uses namespaces or volumes of one that was created again, the new ID is used."""
    host = {"NetworkMode": f"container:{OTHER}", "PidMode": "host", "VolumesFrom": [f"{OTHER}:ro", "x"]}
    made = request_body(recipe(document(HostConfig=host)), "app:1", {OTHER: "c" * 64})

    assert made["Image"] == "app:1"
    assert made["HostConfig"]["NetworkMode"] == f"container:{'c' * 64}"
    assert made["HostConfig"]["VolumesFrom"] == [f"{'c' * 64}:ro", "x"]


def test_a_container_that_was_created_again_matches_its_recipe() -> None:
    """A container matches by its ID, or by name and Compose's labels; another configuration does not."""
    made = recipe(document())
    again = document(Id=OTHER)
    other = document(Id=OTHER, Config={"Labels": {**LABELS, "com.docker.compose.config-hash": "5"}})

    assert matches(made, document(Name="/renamed"))
    assert matches(made, again)
    assert not matches(made, other)
    assert not matches(made, document(Id=OTHER, Name="/shop-web-2"))


def test_a_network_is_created_as_it_was() -> None:
    """A network's request has its settings and labels, and neither its ID nor its containers."""
    reported = {"Name": "shop_default", "Id": ID, "Driver": "bridge", "Labels": {"a": "b"}, "Containers": {ID: {}}}

    assert network_request(reported) == {"Name": "shop_default", "Driver": "bridge", "Labels": {"a": "b"}}


def test_containers_are_created_in_the_order_of_their_dependencies() -> None:
    """The order follows Compose's label; dependencies outside of the record and cycles do not stop it."""

    def with_needs(needs: str) -> list[dict[str, Any]]:
        return [{"body": {"Labels": {"com.docker.compose.depends_on": needs}}}]

    found = {"web": with_needs("db:service_healthy:false,gone:service_started:false"), "db": with_needs(""), "none": []}

    assert dependency_order(found) == ["db", "none", "web"]
    assert dependency_order({"a": with_needs("b:x:false"), "b": with_needs("a:x:false")}) == ["a", "b"]


def test_services_that_were_not_chosen_keep_their_recipes() -> None:
    """A release of chosen services takes over the recipes of the others."""
    before: dict[str, Any] = {
        RECIPES: {"services": {"web": [{}], "db": [{"id": ID}]}, "networks": {"n": {"Name": "n"}}}
    }
    new: dict[str, Any] = {"services": {"web": {}, "db": {}}}
    merge_recipes(new, before, {"web"})

    assert recipes_of(new) == {"db": [{"id": ID}]}
    assert recorded_networks(new) == [{"Name": "n"}]
    whole: dict[str, Any] = {"services": {"web": {}}}
    merge_recipes(whole, before, {"web", "db"})
    assert recipes_of(whole) == {}
    assert recorded_networks(whole) == []


def test_only_values_are_copied_into_containers() -> None:
    """Compose copies secrets and configs from variables and contents to their targets; those from files are mounts."""
    text = {
        "services": {
            "web": {
                "secrets": [{"source": "token"}, {"source": "key", "target": "/keys/key"}, {"source": "file"}],
                "configs": [{"source": "conf"}, {"source": "inline", "target": "/etc/inline"}, {"source": "gone"}],
            }
        },
        "secrets": {"token": {"environment": "TOKEN"}, "key": {"environment": "KEY"}, "file": {"file": "/a"}},
        "configs": {"conf": {"environment": "CONF"}, "inline": {"content": "x"}},
    }

    assert value_paths(text, "web") == {"/run/secrets/token", "/keys/key", "/conf", "/etc/inline"}
    assert value_paths(text, "db") == set()
