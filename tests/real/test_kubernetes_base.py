"""The kustomize base of packaging/kubernetes: built by kubectl, pinned by boltseal, compared with the server that it
runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from boltseal import __version__
from boltseal.commands.health import TIMEOUT_S
from boltseal.server.registry.readiness import DATABASE_TIMEOUT_S
from boltseal.server.settings import Settings
from tests import servers
from tests.authority import authority
from tests.cli import program as boltseal
from tests.docs.pages import ROOT, text
from tests.ports import free_port
from tests.real.kustomized import BASE, IMAGE, built
from tests.real.layout import image_layout
from tests.real.registry import Registry
from tests.real.tools import run

pytestmark = pytest.mark.real


def container_of(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the only container of the StatefulSet."""
    (container,) = documents["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def containerfile() -> str:
    return (ROOT / "packaging/Containerfile").read_text(encoding="utf-8")


def test_the_base_runs_the_registry_without_privileges() -> None:
    """The pod runs as the image's non-root user, read-only, without capabilities or a cluster token, with seccomp."""
    documents = built(BASE)
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    (user,) = set(re.findall(r"^USER (\d+):\d+$", containerfile(), re.MULTILINE))

    assert set(documents) == {"ServiceAccount", "ConfigMap", "Service", "StatefulSet", "NetworkPolicy"}
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "fsGroup": int(user),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container_of(documents)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert documents["ServiceAccount"]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_service_and_policy_reach_the_port_and_the_probes_run_the_health_check() -> None:
    """Ports have one name, selectors one label, and probes wait longer than the health check does."""
    documents = built(BASE)
    container, service, policy = (
        container_of(documents),
        documents["Service"]["spec"],
        documents["NetworkPolicy"]["spec"],
    )
    labels = documents["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    (port,) = container["ports"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}

    assert service["ports"][0]["targetPort"] == port["name"]
    assert [rule["port"] for rule in policy["ingress"][0]["ports"]] == [port["name"]]
    assert "from" not in policy["ingress"][0]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert service["selector"] == policy["podSelector"]["matchLabels"] == labels
    assert documents["StatefulSet"]["spec"]["serviceName"] == documents["Service"]["metadata"]["name"]
    assert documents["StatefulSet"]["spec"]["replicas"] == 1
    assert {name: probe["exec"]["command"] for name, probe in probes.items()} == {
        "startup": ["boltseal", "health"],
        "liveness": ["boltseal", "health"],
        "readiness": ["boltseal", "health", "--ready"],
    }
    assert {probe["timeoutSeconds"] > max(TIMEOUT_S, DATABASE_TIMEOUT_S) for probe in probes.values()} == {True}


def test_the_probes_pass_with_tls_and_without_a_login(tmp_path: Path) -> None:
    """Each command runs as in the pod, with the base's configuration as its only source of the address."""
    documents = built(BASE)
    container = container_of(documents)
    made, port = authority(tmp_path), free_port()
    config = tmp_path / "data.toml"
    text_of_config = documents["ConfigMap"]["data"]["boltseal.toml"]
    for path, here in (
        ("/var/lib/boltseal/data", str(tmp_path / "data")),
        ("0.0.0.0:5000", f"127.0.0.1:{port}"),
        ("/run/tls/tls.crt", str(made.cert)),
        ("/run/tls/tls.key", str(made.key)),
    ):
        assert path in text_of_config
        text_of_config = text_of_config.replace(path, here)
    config.write_text(text_of_config)
    commands = [container[f"{name}Probe"]["exec"]["command"][1:] for name in ("startup", "liveness", "readiness")]
    environment = {"BOLTSEAL_CONFIG": str(config)}
    before = [boltseal.run(*command, environment=environment).code for command in commands]
    added = boltseal.call("admin", "user", "add", "ci", "--config", config, typed="sesame-sesame\n")
    with servers.boltseal(
        tmp_path / "data",
        config=text_of_config,
        settings={"BOLTSEAL_SERVER__TLS_CERT": str(made.cert)},
        port=port,
    ):
        while_it_runs = [boltseal.run(*command, environment=environment) for command in commands]

    assert (before, added.code) == ([3, 3, 3], 0)
    assert [ran.code for ran in while_it_runs] == [0, 0, 0]
    assert "https://" in while_it_runs[0].out


def test_the_configuration_is_valid_and_its_paths_are_mounted(tmp_path: Path) -> None:
    """boltseal reads the base's configuration; data and certificate are on volumes, and nothing else is writable."""
    documents = built(BASE)
    container = container_of(documents)
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    (port,) = container["ports"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = documents["StatefulSet"]["spec"]["volumeClaimTemplates"]
    at = tmp_path / "boltseal.toml"
    at.write_text(documents["ConfigMap"]["data"]["boltseal.toml"])
    result = boltseal.run("admin", "config", "--config", at, "--json")
    values = {row["ref"]: row["value"] for row in result.json["results"]}

    assert result.code == 0
    assert values["[server] listen"] == f"0.0.0.0:{port['containerPort']}"
    assert mounts["data"] == str(Path(values["[server] data"]).parent)
    assert f"VOLUME {mounts['data']}" in containerfile()
    assert {str(Path(values[f"[server] tls_{part}"]).parent) for part in ("cert", "key")} == {mounts["tls"]}
    assert mounts["configuration"] == "/etc/boltseal"
    assert volumes["configuration"]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    assert set(mounts) == {*volumes, *(claim["metadata"]["name"] for claim in claims)}
    assert pod["terminationGracePeriodSeconds"] > Settings().server.shutdown_timeout_s


def test_a_changed_configuration_restarts_the_pod(tmp_path: Path) -> None:
    """A changed configuration gives the ConfigMap another name, which restarts the pod."""
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    before = built(base)
    with (base / "boltseal.toml").open("a") as opened:
        opened.write("\n[ledger]\npublic = true\n")
    after = built(base)

    assert before["StatefulSet"] != after["StatefulSet"]
    assert before["ConfigMap"]["metadata"]["name"] != after["ConfigMap"]["metadata"]["name"]


def test_boltseal_pins_the_base_and_the_overlay_of_the_page(
    registry: Registry, repository: str, tmp_path: Path
) -> None:
    """`lock` and `pin` write digests into the base's StatefulSet and the overlay's `images`, which kubectl uses."""
    tagged = f"{registry.host}/{repository}"
    layout = image_layout(tmp_path / "image", b"the registry")
    run("skopeo", "copy", "--dest-tls-verify=false", layout.source, f"docker://{tagged}:{__version__}").checked()
    files = re.findall(r"```(?:yaml|toml)\n(.*?)```", text("docs/operations/kubernetes.md"), re.DOTALL)
    overlay = tmp_path / "overlay"
    base = Path(shutil.copytree(BASE, overlay / "base"))
    for name, content in zip(("kustomization.yaml", "boltseal.toml", "egress.yaml"), files, strict=True):
        (overlay / name).write_text(content.replace(f"{IMAGE.replace('/boltseal', '/tools/boltseal')}", tagged))
    statefulset = base / "statefulset.yaml"
    assert f"image: {IMAGE}:{__version__}\n" in statefulset.read_text()
    statefulset.write_text(statefulset.read_text().replace(IMAGE, tagged))
    kustomization = overlay / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace(f"name: {IMAGE}\n", f"name: {tagged}\n"))
    unpinned = container_of(built(overlay))["image"]
    for folder in (base, overlay):
        locked = boltseal.run("lock", "--project", folder)
        pinned = boltseal.run("pin", "--write", "--project", folder)
        assert (locked.code, pinned.code) == (0, 0), locked.err + pinned.err
    verified = boltseal.run("verify", "--project", overlay)

    assert unpinned == f"{tagged}:{__version__}"
    assert container_of(built(base))["image"] == f"{tagged}:{__version__}@{layout.digest}"
    assert container_of(built(overlay))["image"] == f"{tagged}:{__version__}@{layout.digest}"
    assert verified.code == 0, verified.err
    assert {rule["port"] for rule in built(overlay)["NetworkPolicy"]["spec"]["egress"][0]["ports"]} == {53, 443}
    assert "docker.io" in built(overlay)["ConfigMap"]["data"]["boltseal.toml"]
