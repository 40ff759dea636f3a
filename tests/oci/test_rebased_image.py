"""Config and manifest of an image on another base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.rebased_image import ImageParts, NotCarried, RebasedImage, rebased_image, rebased_index
from tests.images import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    digest_of,
)

ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"


def parts(
    layers: str,
    settings: Mapping[str, Any] | None = None,
    *,
    history: str | None = None,
    media_type: str = OCI_MANIFEST,
    layer_type: str = OCI_LAYER,
    annotations: Mapping[str, str] | None = None,
    raw: bytes | None = None,
    layer_count: int | None = None,
    **top: Any,
) -> ImageParts:
    """An image with a layer for each letter. `history`: a step for each letter, which makes no layer if it is upper-case."""
    body = {
        "created": "2026-11-20T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": dict(settings or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest_of(letter.encode()) for letter in layers]},
        "history": [
            {"created_by": step} | ({"empty_layer": True} if step.isupper() else {})
            for step in (layers if history is None else history)
        ],
    }
    config = json.dumps(body | top).encode() if raw is None else raw
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": DOCKER_CONFIG if media_type == DOCKER_MANIFEST else OCI_CONFIG,
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": layer_type, "digest": digest_of(f"gz {letter}".encode()), "size": 1}
            for letter in layers[:layer_count]
        ],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return ImageParts(parse_manifest(json.dumps(manifest).encode(), media_type), config)


def rebased(
    image: ImageParts, old: ImageParts, new: ImageParts, labels: Mapping[str, str | None] | None = None
) -> RebasedImage:
    return rebased_image(image, old, new, labels or {}, {"base": "new"})


def result(image: ImageParts, old: ImageParts, new: ImageParts, **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(rebased(image, old, new, **more).config)
    return config


def settings_of(image: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result(parts("abx", image), parts("ab", old), parts("ac", new))["config"]
    return found


def notes_of(image: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    return rebased(parts("abx", image), parts("ab", old), parts("ac", new)).notes


def test_layers_and_history_are_the_new_bases_and_the_images_own() -> None:
    """Layers, diff_ids and history of the old base are replaced, and those of the image follow."""
    made = rebased(parts("abxy", history="abExFy"), parts("ab"), parts("acd", history="aAcd"))
    config = json.loads(made.config)

    assert config["rootfs"]["diff_ids"] == [digest_of(letter.encode()) for letter in "acdxy"]
    assert [step["created_by"] for step in config["history"]] == [*"aAcdExFy"]
    assert [str(each.digest) for each in made.manifest.layers] == [digest_of(f"gz {x}".encode()) for x in "acdxy"]
    assert made.manifest.config is not None
    assert made.manifest.config.digest == Digest.of(made.config)
    assert (made.own_layers, made.notes) == (2, ())


def test_an_image_without_own_layers_is_rebased_too() -> None:
    """An image that only has settings of its own gets exactly the layers of the new base."""
    made = rebased(parts("ab", {"User": "app"}), parts("ab"), parts("ac"))

    assert made.own_layers == 0
    assert json.loads(made.config)["config"]["User"] == "app"


def test_inherited_settings_take_the_new_values_and_own_ones_stay() -> None:
    """A setting that equals the old base's follows the new base, also where one of them has none."""
    old = {"User": "", "WorkingDir": "/srv", "StopSignal": "SIGTERM", "Cmd": ["old"], "Entrypoint": ["/e1"]}
    new = {"User": "node", "StopSignal": "SIGQUIT", "Cmd": ["new"], "Entrypoint": ["/e2"]}

    assert settings_of(old | {"WorkingDir": "/own"}, old, new) == new | {"WorkingDir": "/own"}
    assert settings_of(old, old, {}) == {}


def test_a_value_that_both_changed_follows_the_image_and_is_noted() -> None:
    """A setting, a variable or a label that the image and the new base changed keeps the image's value, with a note."""
    own = {"User": "app", "Env": ["A=own", "B=same"], "Labels": {"l": "own"}}
    old = {"User": "root", "Env": ["A=1", "B=1"], "Labels": {"l": "1"}}
    new = {"User": "node", "Env": ["A=2", "B=same"], "Labels": {"l": "2"}}
    notes = notes_of(own, old, new)

    assert settings_of(own, old, new) == own
    assert [note.partition(" was")[0] for note in notes] == ["User", "ENV A", "Labels l"]
    assert notes_of({"User": "app"}, {}, {"User": "app"}) == ()


def test_environment_variables_are_merged_one_by_one() -> None:
    """Inherited variables are updated, added and removed as the new base has them, in a build's order."""
    own = ["PATH=/bin", "V=1", "GONE=1", "OWN=x=y", "BARE"]
    old = ["PATH=/bin", "V=1", "GONE=1", "DROPPED=1"]
    new = ["NEW=1", "V=2", "PATH=/bin", "DROPPED=1"]

    assert settings_of({"Env": own}, {"Env": old}, {"Env": new})["Env"] == [
        "NEW=1",
        "V=2",
        "PATH=/bin",
        "OWN=x=y",
        "BARE",
    ]


def test_labels_ports_and_volumes_are_merged_one_by_one() -> None:
    """Of labels, ports and volumes the inherited ones follow the new base, and the image's own are kept."""
    for key in ("Labels", "ExposedPorts", "Volumes"):
        value: Any = "1" if key == "Labels" else {}
        own, old, new = (dict.fromkeys(names, value) for names in (("a", "own"), ("a", "b"), ("b", "c")))

        assert settings_of({key: own}, {key: old}, {key: new})[key] == {"c": value, "own": value}, key


def test_an_own_entrypoint_resets_the_inherited_command() -> None:
    """An image with an ENTRYPOINT of its own keeps its Cmd, as a build resets that of the base."""
    assert "Cmd" not in settings_of({"Entrypoint": ["/own"]}, {}, {"Cmd": ["bash"]})
    assert settings_of({"Entrypoint": ["/own"], "Cmd": ["a"]}, {"Cmd": ["a"]}, {"Cmd": ["b"]})["Cmd"] == ["a"]


def test_build_triggers_are_not_inherited_and_must_be_equal() -> None:
    """ONBUILD stays the image's; other instructions in the new base than in the old one refuse the rebase."""
    triggers = {"OnBuild": ["RUN x"]}

    assert "OnBuild" not in settings_of({}, triggers, triggers)
    assert settings_of(triggers, {}, {}) == triggers
    with pytest.raises(NotCarried, match="ONBUILD"):
        settings_of({}, {}, triggers)


def test_the_parents_id_of_older_dockers_is_left_out() -> None:
    """`Image` named the former parent, so it is left out."""
    assert settings_of({"Image": "sha256:1"}, {}, {}) == {}


def test_labels_are_set_and_removed() -> None:
    """The labels of a rebase are set, and those that are no longer true are removed."""
    config = result(
        parts("abx", {"Labels": {"inputs": "1", "own": "1"}}), parts("ab"), parts("ac"),
        labels={"inputs": None, "base": "new", "never": None},
    )  # fmt: skip

    assert config["config"]["Labels"] == {"own": "1", "base": "new"}


def test_labels_that_the_rebase_replaces_have_no_note() -> None:
    """No note says that the image's value stays where the rebase itself sets or removes the label, and none is inherited."""
    made = rebased(
        parts("abx", {"Labels": {"base": "old", "inputs": "1"}}),
        parts("ab", {"Labels": {"base": "older", "inputs": "2"}}),
        parts("ac", {"Labels": {"base": "newest", "inputs": "3", "of": "3.0.0"}}),
        labels={"base": "new", "inputs": None, "of": None},
    )

    assert made.notes == ()
    assert json.loads(made.config)["config"]["Labels"] == {"base": "new"}


def test_labels_of_the_images_own_build_stay_its_own() -> None:
    """A commit that image and old base share is not replaced by that of the new base, if the image has a version of its own."""
    version, commit = "org.opencontainers.image.version", "org.opencontainers.image.revision"
    old, new = {version: "1", commit: "a"}, {version: "2", commit: "b"}

    assert settings_of({"Labels": {version: "9", commit: "a"}}, {"Labels": old}, {"Labels": new})["Labels"] == {
        version: "9",
        commit: "a",
    }
    assert notes_of({"Labels": {version: "9", commit: "a"}}, {"Labels": old}, {"Labels": new}) == ()
    assert settings_of({"Labels": old}, {"Labels": old}, {"Labels": new})["Labels"] == new


def test_the_time_is_the_later_one_so_that_the_bytes_are_the_same() -> None:
    """The creation time is the later one of image and new base, and equal inputs give equal bytes."""
    images = parts("abx", created="2026-11-21T00:00:00Z"), parts("ab"), parts("ac", created="2026-11-22T00:00:00Z")

    assert result(*images)["created"] == "2026-11-22T00:00:00Z"
    assert rebased(*images) == rebased(*images)
    assert "created" not in result(parts("abx", created=None), parts("ab"), parts("ac", created=None))


def test_the_operating_systems_version_is_inherited() -> None:
    """`os.version` and `variant` follow the new base; what is in no specification is left out, with a note."""
    older: dict[str, Any] = {"os.version": "1"}
    newer: dict[str, Any] = {"os.version": "2"}
    built: dict[str, Any] = {"moby.buildkit.cache.v0": "x", "docker_version": "20", "author": "me"}
    made = rebased(parts("abx", **older, **built), parts("ab", **older), parts("ac", **newer))
    config = json.loads(made.config)

    assert (config["os.version"], config["author"]) == ("2", "me")
    assert not {"moby.buildkit.cache.v0", "docker_version"} & config.keys()
    assert [*made.notes] == ['"moby.buildkit.cache.v0" of its config is left out: it is a fact of its build']


def test_other_layers_than_the_old_bases_are_refused() -> None:
    """An image whose layers do not begin with all of the old base's, in their order, is refused."""
    for layers in ("bax", "xab", "a"):
        with pytest.raises(NotCarried, match="do not begin"):
            rebased(parts(layers), parts("ab"), parts("ac"))
    with pytest.raises(NotCarried, match="do not begin"):
        rebased(parts("abx"), parts(""), parts("ac"))


def test_another_history_than_the_old_bases_is_refused() -> None:
    """An image whose history does not begin with the old base's was built on another image with the same layers."""
    with pytest.raises(NotCarried, match="history does not begin"):
        rebased(parts("abx", history="aBbx"), parts("ab"), parts("ac"))
    with pytest.raises(NotCarried, match="another number of layers"):
        rebased(parts("abx", history="abxx"), parts("ab"), parts("ac"))
    assert "history" not in result(parts("abx", history=""), parts("ab"), parts("ac"))


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"rootfs": {"diff_ids": []}, "rootfs": {"diff_ids": []}}',
        b'{"Rootfs": {"diff_ids": []}}',
        b'{"rootfs": {"diff_ids": ["x"]}, "config": {"env": []}}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "config": [1]}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "config": {"Env": [1]}}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "config": {"Volumes": [1]}}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "history": [1]}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "created": 1}',
        b'{"rootfs": {"diff_ids": {}}}',
        b'{"rootfs": []}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "config": {"StopTimeout": NaN}}',
        b'{"rootfs": {"diff_ids": ["x", "y", "z"]}, "config": {"StopTimeout": -Infinity}}',
    ],
)
def test_a_config_that_readers_could_read_differently_is_refused(raw: bytes) -> None:
    """A config that is malformed, or has a key twice or in another case, is refused."""
    with pytest.raises(NotCarried, match="the config of the image"):
        rebased(parts("abx", raw=raw), parts("ab"), parts("ac"))


def test_another_number_of_layers_in_the_manifest_is_refused() -> None:
    """A manifest with another number of layers than its config is refused."""
    with pytest.raises(NotCarried, match="has 2 layers, and its manifest 1"):
        rebased(parts("abx"), parts("ab", layer_count=1), parts("ac"))


def test_a_docker_image_on_a_docker_base_stays_one() -> None:
    """Manifests of Docker stay so; annotations, which they can't have, are not set."""
    image, old, new = (
        parts(letters, media_type=DOCKER_MANIFEST, layer_type=DOCKER_LAYER) for letters in ("abx", "ab", "ac")
    )
    made = rebased(image, old, new).manifest

    assert made.media_type == DOCKER_MANIFEST
    assert made.config is not None
    assert made.config.media_type == DOCKER_CONFIG
    assert "annotations" not in json.loads(made.raw)


@pytest.mark.parametrize(("layer_type", "becomes"), [(DOCKER_LAYER, OCI_LAYER), (DOCKER_ZSTD, ZSTD)])
def test_mixed_media_types_become_those_of_oci(layer_type: str, becomes: str) -> None:
    """An image of Docker on a base of OCI becomes one of OCI, with the types of OCI for all layers."""
    image = parts("abx", media_type=DOCKER_MANIFEST, layer_type=layer_type)
    made = rebased(image, parts("ab"), parts("ac")).manifest

    assert made.media_type == OCI_MANIFEST
    assert [layer.media_type for layer in made.layers] == [OCI_LAYER, OCI_LAYER, becomes]


def test_layers_that_may_not_be_moved_are_refused() -> None:
    """Foreign and encrypted layers, of the image or of the new base, are refused."""
    for kind in (DOCKER_FOREIGN_LAYER, f"{OCI_LAYER}+encrypted"):
        with pytest.raises(NotCarried, match="the new base has a layer of the type"):
            rebased(parts("abx"), parts("ab"), parts("ac", layer_type=kind))


def test_annotations_of_the_image_stay_and_the_base_is_set() -> None:
    """The image's annotations stay; those that name its base are set."""
    image = parts("abx", annotations={"base": "old", "own": "1"})

    assert rebased(image, parts("ab"), parts("ac")).manifest.annotations == {"base": "new", "own": "1"}


def index_of(*children: Manifest, media_type: str = OCI_INDEX, more: tuple[dict[str, Any], ...] = ()) -> Manifest:
    entries = [
        {
            "mediaType": each.media_type,
            "digest": str(Digest.of(each.raw)),
            "size": len(each.raw),
            "platform": {"os": "linux", "architecture": "amd64"},
            "annotations": {"base": "old", "own": "1"},
        }
        for each in children
    ]
    return parse_manifest(
        json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [*entries, *more]}).encode(), media_type
    )


def test_an_index_gets_the_new_images_without_attestations() -> None:
    """The entries of images are replaced, with their platforms and other annotations; every other entry is left out."""
    old, new = parts("abx").manifest, parts("acx").manifest
    attestation = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"att"), "size": 1}
    made = rebased_index(index_of(old, more=(attestation,)), {Digest.of(old.raw): new}, {"base": "new"})

    [entry] = made.manifests
    assert (entry.digest, entry.size) == (Digest.of(new.raw), len(new.raw))
    assert str(entry.platform) == "linux/amd64"
    assert entry.annotations == {"base": "new", "own": "1"}
    assert made.annotations == {"base": "new"}


def test_a_list_of_docker_stays_one_unless_an_image_is_of_oci() -> None:
    """A manifest list with only Docker images stays one; with an image of OCI it becomes an index of OCI."""
    docker = parts("abx", media_type=DOCKER_MANIFEST, layer_type=DOCKER_LAYER).manifest
    oci = parts("abx").manifest
    listed = index_of(docker, media_type=DOCKER_LIST)

    assert rebased_index(listed, {Digest.of(docker.raw): docker}, {}).media_type == DOCKER_LIST
    assert rebased_index(listed, {Digest.of(docker.raw): oci}, {}).media_type == OCI_INDEX


def test_a_result_that_no_registry_accepts_is_refused() -> None:
    """A merged manifest that is not valid, here by an annotation that is no text, is refused."""
    with pytest.raises(NotCarried, match="manifest of the result"):
        rebased_image(parts("abx"), parts("ab"), parts("ac"), {}, {"base": 1})  # type: ignore[dict-item]
