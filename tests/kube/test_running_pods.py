"""`ps --kube` and `verify --running --kube` after a deploy: what the pods run against the release and the lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import servers
from tests.admin_requests import EVERYTHING, login_of, settings_with_users
from tests.cli.program import Run
from tests.kube.https_listener import Fault, Refused
from tests.kube.shop import KubeShop, deployment, digest_of

pytestmark = [pytest.mark.real, pytest.mark.slow]


def _verify(shop: KubeShop, *arguments: str) -> Run:
    return shop.run("verify", "--running", "--kube", "prod", "-p", "shop", "--json", *arguments)


def _statuses(done: Run) -> list[tuple[str, str]]:
    return [(each["status"], each["weight"]) for each in done.json["results"]]


def test_pods_are_compared_with_the_release_and_the_lock(shop: KubeShop) -> None:
    """`ps` names the release that a pod's container belongs to; an image on a node that differs from the digest is found."""
    shop.write("1.0")
    shop.deploy()
    where = ("--kube", "prod", "--namespace", "shop", "--offline")
    listed = shop.run("ps", *where, "--json")
    held = shop.run("verify", "--running", *where)
    shop.api.controllers.on_node = f"registry.example.com/shop/web@{digest_of('other')}"
    differs = shop.run("verify", "--running", *where)
    other = shop.run("ps", *where)

    row = listed.json["results"][0]
    assert (row["service"], row["release"]) == ("deployment/web/app", 1)
    assert (held.code, differs.code) == (0, 1), differs.out
    assert str(digest_of("other")) in other.out


def test_what_runs_in_a_cluster_is_reported_under_a_name(shop: KubeShop, tmp_path: Path) -> None:
    """The registry lists the digests of all pods under the cluster's name; without a name, or for one namespace, nothing is sent."""
    settings_with_users(tmp_path / "data")
    grants = "".join(
        f'[[auth.grant]]\nusers = ["{user}"]\nactions = {json.dumps(actions)}\n'
        for user, actions in {"boss": EVERYTHING, "ci": ["report"]}.items()
    )
    shop.write("1.0")
    shop.deploy()
    with servers.boltseal(tmp_path / "data", config=grants) as server:
        reports, reads = login_of(server, tmp_path, "ci"), login_of(server, tmp_path, "boss")
        to = ("ps", "--kube", "prod", "--offline", *reports, "--report", server.address)
        sent = shop.run(*to, "--report-as", "prod", "--json")
        nameless, partly = shop.run(*to), shop.run(*to, "--report-as", "prod", "--namespace", "shop")
        listed = shop.run("admin", "host", "ls", "--server", server.address, *reads, "--json")
        found = ("admin", "host", "ls", "--server", server.address, *reads, "--digest", str(digest_of("1.0")), "--json")
        images = shop.run(*found)

    assert (sent.code, sent.json["report"]["error"]) == (0, None), sent.err
    assert (nameless.code, partly.code) == (2, 2)
    assert "needs --report-as NAME" in nameless.err
    assert "leave out --compose, --namespace" in partly.err
    assert [(each["ref"], each["status"]) for each in listed.json["results"]] == [("prod", "reporting")]
    assert [each["host"] for each in images.json["results"]] == ["prod"]


def test_pods_run_the_release_after_a_rollback(shop: KubeShop) -> None:
    """The release decides, not the folder's lock, which has the version that was gone back from; another machine sees the same."""
    shop.write("1.0", job="1.0")
    shop.deploy()
    shop.write("2.0", job="2.0")
    shop.deploy()
    shop.run("rollback", "--kube", "prod", "-p", "shop")
    (shop.folder / "boltseal.lock").unlink()
    shop.environment |= {"BOLTSEAL_STATE": str(shop.folder / "other"), "BOLTSEAL_ENGINES": str(shop.folder / "engines")}
    done = _verify(shop)

    web = next(each for each in done.json["results"] if each["service"] == "deployment/web/app")
    assert done.code == 0, done.out
    assert (web["status"], web["release"], web["node"]) == ("holds", 3, "node-a")
    assert web["locked_digest"] == str(digest_of("1.0"))


def test_what_nodes_run_differs_from_the_release(shop: KubeShop) -> None:
    """Another image on a node, a pod that asks for another digest, and a deleted workload are reported, each by its word."""
    shop.write("1.0", deployment("api", "registry.example.com/shop/web:1.0"))
    shop.deploy()
    shop.api.controllers.on_node = f"registry.example.com/shop/web@{digest_of('other')}"
    on_node = _verify(shop)
    text = shop.run("verify", "--running", "--kube", "prod", "-p", "shop")
    shop.api.controllers.on_node = ""
    changed = {"containers": [{"name": "app", "image": f"registry.example.com/shop/web:9@{digest_of('9')}"}]}
    shop.api.controllers.changed["web"] = {"spec": changed}
    asked = _verify(shop)
    shop.api.controllers.changed.clear()
    shop.api.remove(("apps/v1", "Deployment", "shop", "api"))
    gone, strict = _verify(shop), _verify(shop, "--strict")

    assert (on_node.code, _statuses(on_node)) == (1, [("other-image", "differs")] * 2)
    assert (
        f"prod (node-a): shop/web-5d9c7b-x2x4z/app: registry.example.com/shop/web:1.0@{digest_of('1.0')}: other-image: its node runs"
        in text.out
    )
    assert "compared with release 1 of shop" in text.err
    assert (asked.code, sorted(_statuses(asked))) == (1, [("holds", "holds"), ("not-as-released", "differs")])
    assert (gone.code, _statuses(gone)) == (0, [("holds", "holds"), ("not-running", "note")])
    assert (strict.code, _statuses(strict)[1]) == (1, ("not-running", "differs"))


def test_what_could_not_be_checked_is_no_success(shop: KubeShop) -> None:
    """A pod without an image, a refused request, a release whose record is gone, a namespace that is gone: exit code 3 and the reason."""
    shop.write("1.0")
    shop.deploy()
    shop.api.controllers.pulling = True
    pulling = _verify(shop)
    shop.api.controllers.pulling = False
    found = []
    forbidden = Refused(403, "Forbidden", 'pods is forbidden: User "ann" cannot list resource "pods"')
    for pattern, refused in (
        (r"GET /api/v1/namespaces/shop/pods", forbidden),
        (r"GET /api/v1/namespaces/shop/secrets", Refused(403, "Forbidden", "secrets is forbidden")),
        (r"GET /api/v1/namespaces/shop(\?|$)", Refused(401, "Unauthorized", "Unauthorized")),
        (r"GET /api/v1/namespaces/shop/", None),
    ):
        shop.api.faults[:] = [Fault(pattern, refused)]
        found.append(_verify(shop))
    shop.api.faults.clear()
    shop.environment |= {"BOLTSEAL_STATE": str(shop.folder / "other"), "BOLTSEAL_ENGINES": str(shop.folder / "engines")}
    shop.api.remove(("v1", "Secret", "shop", "boltseal.shop.1"))
    found.append(_verify(shop))
    shop.api.delete_namespace("shop")
    found.append(_verify(shop))
    reasons = [done.json["results"][0]["reason"] for done in found]

    assert (pulling.code, pulling.json["results"][0]["reason"]) == (
        3,
        "its node has reported no image yet: ContainerCreating",
    )
    assert [(done.code, _statuses(done)) for done in found] == [(3, [("unknown", "unknown")])] * 6, reasons
    assert "cannot list resource" in reasons[0]
    assert (
        "could not check the release of shop: prod: Error from server (Forbidden): secrets is forbidden" in reasons[1]
    )
    assert "log in to the cluster again" in reasons[2]
    assert (
        "prod/shop has no release of shop that runs: its record is gone, or it was never deployed there" in reasons[4]
    )
    assert "prod has no namespace shop" in reasons[5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--running", "-p", "shop"), "--project-name needs --kube"),
        (("-p", "shop"), "need --running"),
        (("--running", "--kube", "prod", "-p", "No"), "invalid project name for a cluster"),
    ],
)
def test_contradicting_options_are_refused(shop: KubeShop, arguments: tuple[str, ...], message: str) -> None:
    """A project name without a cluster, or an invalid one, is a usage error."""
    done = shop.run("verify", *arguments)

    assert done.code == 2
    assert message in done.err
