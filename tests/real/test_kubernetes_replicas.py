"""The kustomize overlay of packaging/kubernetes-replicas: built by kubectl, compared with its base and with the server that it runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from boltseal import __version__
from boltseal.server.settings import Settings
from tests.cli import program as boltseal
from tests.docs.pages import ROOT, text
from tests.real.kustomized import BASE, IMAGE, built
from tests.real.layout import image_layout
from tests.real.registry import Registry
from tests.real.tools import run

pytestmark = pytest.mark.real

OVERLAY = ROOT / "packaging/kubernetes-replicas"


def spec_of(documents: dict[str, dict[str, Any]], kind: str = "Deployment") -> dict[str, Any]:
    """Return the specification of a workload."""
    spec = documents[kind]["spec"]
    assert isinstance(spec, dict)
    return spec


def test_the_pod_is_that_of_the_base() -> None:
    """The overlay changes only what it names: the image, the security settings, the limits and the other probes are those of the base."""
    base = spec_of(built(BASE), "StatefulSet")["template"]["spec"]
    pod = spec_of(built(OVERLAY))["template"]["spec"]
    (container,), (of_base,) = pod["containers"], base["containers"]
    own = {key for key in pod if pod[key] != base.get(key)}
    changed = {key for key in container if container[key] != of_base.get(key)}

    assert own == {"containers", "volumes", "topologySpreadConstraints", "terminationGracePeriodSeconds"}
    assert changed == {"env", "lifecycle", "readinessProbe", "volumeMounts"}
    assert set(built(OVERLAY)) == set(built(BASE)) - {"StatefulSet"} | {
        "Deployment",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
    }


def test_an_update_and_maintenance_leave_a_replica_ready() -> None:
    """A new pod is ready before an old one is stopped, nodes are drained one by one, and requests in progress can finish."""
    documents = built(OVERLAY)
    spec = spec_of(documents)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (spread,) = pod["topologySpreadConstraints"]
    labels = spec["template"]["metadata"]["labels"]
    budget = documents["PodDisruptionBudget"]["spec"]
    drained_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])

    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    assert spread["labelSelector"]["matchLabels"] == labels == spec["selector"]["matchLabels"]
    assert (spread["topologyKey"], spread["maxSkew"]) == ("kubernetes.io/hostname", 1)
    assert pod["terminationGracePeriodSeconds"] > drained_s + settings(documents)["[server] shutdown_timeout_s"]
    assert container["readinessProbe"]["exec"]["command"] == ["boltseal", "health", "--ready"]
    assert container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"] <= 10
    assert container["livenessProbe"]["exec"]["command"] == ["boltseal", "health"]


def settings(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that boltseal reads in the overlay's configuration."""
    rows = boltseal.run("admin", "config", "--config", configuration(documents), "--json").json["results"]
    return {row["ref"]: row["value"] for row in rows}


def configuration(documents: dict[str, dict[str, Any]]) -> Path:
    """Return the overlay's file, which is what the ConfigMap has."""
    path = OVERLAY / "boltseal.toml"
    assert path.read_text() == documents["ConfigMap"]["data"]["boltseal.toml"]
    return path


def test_the_settings_are_valid_for_several_servers_and_their_paths_are_mounted() -> None:
    """Data is a folder of each pod, the keys are one folder for all, the mark is an object, and the Secret has what the page creates."""
    documents = built(OVERLAY)
    pod = spec_of(documents)["template"]["spec"]
    (container,) = pod["containers"]
    values = settings(documents)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claim = documents["PersistentVolumeClaim"]
    keys_of_secret = {each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"]} | {
        item["key"] for item in volumes["storage"]["secret"]["items"]
    }
    given = re.findall(r"--from-file=([\w.]+)", text("docs/operations/replicas.md"))
    spool = re.fullmatch(r"(\d+)Gi", volumes["data"]["emptyDir"]["sizeLimit"])

    assert set(mounts) == set(volumes)
    assert mounts["data"] == str(Path(values["[server] data"]).parent)
    assert mounts["keys"] == str(Path(values["[server] keys"]).parent)
    assert mounts["storage"] == str(Path(values["[storage.mark] access_key_file"]).parent)
    assert volumes["keys"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert keys_of_secret == set(given)
    assert {each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"]} == {
        volumes["storage"]["secret"]["secretName"]
    }
    assert values["[storage.mark] url"].startswith("s3://")
    assert spool is not None
    assert int(spool[1]) * 1024**3 > int(Settings().storage.s3.spool_bytes)
    assert {rule["port"] for rule in documents["NetworkPolicy"]["spec"]["egress"][0]["ports"]} == {53, 443, 5432}


def test_boltseal_pins_an_overlay_of_it(registry: Registry, repository: str, tmp_path: Path) -> None:
    """An operator's overlay beside copies of both folders gets the image's digest, as one of the base does."""
    tagged = f"{registry.host}/{repository}"
    layout = image_layout(tmp_path / "image", b"the registry")
    run("skopeo", "copy", "--dest-tls-verify=false", layout.source, f"docker://{tagged}:{__version__}").checked()
    for folder in (BASE, OVERLAY):
        shutil.copytree(folder, tmp_path / folder.name)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    page = re.search(r"```yaml\n(.*?)```", text("docs/operations/kubernetes.md"), re.DOTALL)
    assert page is not None
    kustomization = page[1].replace("- base", "- ../kubernetes-replicas").partition("\nconfigMapGenerator")[0]
    kustomization = kustomization.replace(f"{IMAGE.replace('/boltseal', '/tools/boltseal')}", tagged)
    (overlay / "kustomization.yaml").write_text(kustomization)
    locked = boltseal.run("lock", "--project", overlay)
    pinned = boltseal.run("pin", "--write", "--project", overlay)
    (container,) = spec_of(built(overlay))["template"]["spec"]["containers"]

    assert (locked.code, pinned.code) == (0, 0), locked.err + pinned.err
    assert container["image"] == f"{tagged}:{__version__}@{layout.digest}"
