"""The names of mirrored images: an upstream's prefix, `?ns=`, and the root; and whose rights apply to each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pytest

from boltseal.server.store_factory import UpstreamNameTaken, open_store, prepare
from tests.fakes.upstream import FakeUpstream
from tests.images import image, push
from tests.server.mirror.mirrors import mirror_settings, table_of
from tests.serving import Serving, serving_as

HUB = "docker.io"


@pytest.fixture
async def hub(data: Path, upstream: FakeUpstream) -> AsyncIterator[Serving]:
    """A mirror of a hub, also at the root, with local repositories in `team/**`."""
    table = table_of(upstream) | {"name": HUB, "root": True}
    async with serving_as(mirror_settings(data, table, local={"namespaces": ["team/**"]})) as serving:
        yield serving


@pytest.mark.parametrize(
    "target",
    [
        "/v2/docker.io/library/node/manifests/16.13",
        "/v2/docker.io/node/manifests/16.13",
        "/v2/library/node/manifests/16.13?ns=docker.io",
        "/v2/library/node/manifests/16.13?ns=Docker.IO",
        "/v2/library/node/manifests/16.13",
        "/v2/node/manifests/16.13",
    ],
)
async def test_an_image_is_one_image_by_every_name(hub: Serving, upstream: FakeUpstream, target: str) -> None:
    """Prefix, `?ns=` and root lead to the same repository, and `node` is `library/node`."""
    shown = upstream.publish("library/node", "16.13", image("node"))
    answer = await hub.client.get(target)
    held = await hub.client.get(f"/v2/docker.io/library/node/manifests/{shown.digest}")

    assert answer.content == held.content == shown.raw
    assert upstream.gets("/manifests/") == 1
    assert answer.headers.get("oci-namespace") == ("docker.io" if "ns=" in target else None)


async def test_the_host_of_an_upstream_is_its_name_too(hub: Serving, upstream: FakeUpstream) -> None:
    """An upstream may be named by its host in `ns`, as containerd does it."""
    shown = upstream.publish("library/node", "16.13", image("node"))
    answer = await hub.client.get("/v2/library/node/manifests/16.13", params={"ns": upstream.authority})

    assert answer.content == shown.raw


async def test_blobs_are_served_by_every_name(hub: Serving, upstream: FakeUpstream) -> None:
    """Blobs are served by every name and are fetched once for all."""
    shown = upstream.publish("library/node", "16.13", image("node"))
    blob = shown.layers[0]
    targets = [
        f"/v2/docker.io/library/node/blobs/{blob.digest}",
        f"/v2/library/node/blobs/{blob.digest}?ns=docker.io",
        f"/v2/library/node/blobs/{blob.digest}",
    ]

    assert [(await hub.client.get(target)).content for target in targets] == [blob.data] * 3
    assert upstream.gets("/blobs/") == 1


async def test_a_local_name_is_never_upstreams(hub: Serving, upstream: FakeUpstream) -> None:
    """Neither a pushed repository nor a name in `[local] namespaces` is ever the upstream's."""
    ours = image("ours")
    await push(hub.client, "shop/app", "1.4.2", ours)
    upstream.publish("shop/app", "1.4.2", image("theirs"))
    upstream.publish("shop/app", "6.6.6", image("theirs"))
    upstream.publish("team/app", "1.4.2", image("theirs"))
    upstream.asked.clear()

    assert (await hub.client.get("/v2/shop/app/manifests/1.4.2")).content == ours.raw
    assert (await hub.client.get("/v2/shop/app/manifests/6.6.6")).status_code == 404
    assert (await hub.client.get("/v2/team/app/manifests/1.4.2")).status_code == 404
    assert upstream.asked == []


async def test_a_name_that_was_ever_local_is_never_upstreams(hub: Serving, upstream: FakeUpstream) -> None:
    """A repository's name stays local after all its content is deleted."""
    ours = image("ours")
    await push(hub.client, "shop/app", "latest", ours)
    await hub.client.delete(f"/v2/shop/app/manifests/{ours.digest}")
    upstream.publish("shop/app", "latest", image("theirs"))

    assert (await hub.client.get("/v2/shop/app/manifests/latest")).status_code == 404


async def test_a_push_to_the_root_is_local(hub: Serving, upstream: FakeUpstream) -> None:
    """The root mirror answers reads only, so that a push at the root is local."""
    upstream.publish("shop/app", "latest", image("theirs"))
    await hub.client.get("/v2/shop/app/manifests/latest")
    ours = image("ours")

    assert (await push(hub.client, "shop/app", "latest", ours)).status_code == 201
    assert (await hub.client.get("/v2/shop/app/manifests/latest")).content == ours.raw


async def test_a_local_repository_under_an_upstreams_name_prevents_the_start(
    data: Path, upstream: FakeUpstream
) -> None:
    """A local repository under an upstream's prefix, which would be ambiguous, prevents the start; cached ones do not."""
    settings = mirror_settings(data, table_of(upstream))
    async with serving_as(settings) as serving:
        upstream.publish("team/app", "latest", image("theirs"))
        await serving.client.get("/v2/up.example/team/app/manifests/latest")
    prepare(settings)
    async with serving_as(mirror_settings(data)) as serving:
        await push(serving.client, "up.example/other", "latest", image("ours"))

    with pytest.raises(UpstreamNameTaken):
        prepare(settings)


async def test_rights_apply_to_the_resolved_name(data: Path, upstream: FakeUpstream) -> None:
    """Rights on `library/**` do not apply to the hub's images through the root; rights on the hub's names do."""
    shown = upstream.publish("library/node", "16.13", image("node"))
    htpasswd = data.with_name("htpasswd")
    users = {"ann": "docker.io/library/**", "bob": "library/**"}
    htpasswd.write_text("".join(f"{u}:{bcrypt.hashpw(b'pass', bcrypt.gensalt(4)).decode()}\n" for u in users))
    grants = [{"users": [user], "repository": glob, "actions": ["pull"]} for user, glob in users.items()]
    table = table_of(upstream) | {"name": HUB, "root": True}
    settings = mirror_settings(data, table, auth={"htpasswd": htpasswd, "grant": grants})
    targets = [
        "/v2/library/node/manifests/16.13",
        "/v2/library/node/manifests/16.13?ns=docker.io",
        "/v2/docker.io/library/node/manifests/16.13",
        f"/v2/library/node/blobs/{shown.layers[0].digest}",
    ]
    async with serving_as(settings) as serving:
        ann = [(await serving.client.get(target, auth=("ann", "pass"))).status_code for target in targets]
        bob = [(await serving.client.get(target, auth=("bob", "pass"))).status_code for target in targets]
        anonymous = [(await serving.client.get(target)).status_code for target in targets]
        challenge = (await serving.client.get(targets[0])).headers["www-authenticate"]

    assert ann == [200] * 4
    assert bob == [403] * 4
    assert anonymous == [401] * 4
    assert 'scope="repository:library/node:pull repository:docker.io/library/node:pull"' in challenge


@pytest.mark.parametrize("user", ["ann", None])
async def test_a_refusal_does_not_say_whether_a_local_repository_exists(
    data: Path, upstream: FakeUpstream, user: str | None
) -> None:
    """With a root mirror the name of a local repository and of none get the same status, challenge and message."""
    table = table_of(upstream) | {"name": HUB, "root": True}
    async with serving_as(mirror_settings(data, table)) as before:
        await push(before.client, "shop/app", "1.4.2", image("ours"))
    htpasswd = data.with_name("htpasswd")
    htpasswd.write_text(f"ann:{bcrypt.hashpw(b'pass', bcrypt.gensalt(4)).decode()}\n")
    grants = [{"users": ["ann"], "repository": "elsewhere/**", "actions": ["pull"]}]
    settings = mirror_settings(data, table, auth={"htpasswd": htpasswd, "grant": grants})
    answers = []
    async with serving_as(settings) as serving:
        for name in ("shop/app", "shop/ape"):
            auth = None if user is None else (user, "pass")
            answer = await serving.client.get(f"/v2/{name}/manifests/1.4.2", auth=auth)
            challenge = answer.headers.get("www-authenticate", "")
            answers.append((answer.status_code, answer.text.replace(name, "NAME"), challenge.replace(name, "NAME")))

    assert answers[0] == answers[1]
    assert answers[0][0] == (401 if user is None else 403)
    assert ("repository:docker.io/NAME:pull" in answers[0][2]) == (user is None)


async def test_rows_of_a_mirror_have_its_names(data: Path, upstream: FakeUpstream) -> None:
    """Rows of mirrored repositories are in the same store under their own names."""
    shown = upstream.publish("team/app", "latest", image("theirs"))
    settings = mirror_settings(data, table_of(upstream))
    async with serving_as(settings) as serving:
        await serving.client.get("/v2/up.example/team/app/manifests/latest")
        catalog = (await serving.client.get("/v2/_catalog")).json()
    with open_store(settings) as store:
        held = await store.database.lookups.content.manifest("up.example/team/app", shown.digest)

    assert catalog == {"repositories": ["up.example/team/app"]}
    assert held is not None
    assert held.raw == shown.raw


async def test_anonymous_pull_applies_to_the_resolved_name(data: Path, upstream: FakeUpstream) -> None:
    """`anonymous_pull` of a hub's images opens no local repository, and vice versa."""
    upstream.publish("library/node", "16.13", image("node"))
    upstream.publish("team/app", "1", image("theirs"))
    table = table_of(upstream) | {"name": HUB, "root": True}
    settings = mirror_settings(data, table, auth={"anonymous_pull": ["docker.io/library/**", "team/**"]})
    async with serving_as(settings) as serving:
        found = [
            (await serving.client.get(f"/v2/{name}/manifests/{tag}")).status_code
            for name, tag in (
                ("library/node", "16.13"),
                ("docker.io/library/node", "16.13"),
                ("team/app", "1"),
                ("docker.io/team/app", "1"),
            )
        ]

    assert found == [200, 200, 401, 401]


async def test_a_token_for_a_name_is_valid_for_its_root_mirror(data: Path, upstream: FakeUpstream) -> None:
    """Docker's token for `library/node` works for the root mirror, within the grants."""
    upstream.publish("library/node", "16.13", image("node"))
    upstream.publish("team/app", "1", image("theirs"))
    table = table_of(upstream) | {"name": HUB, "root": True}
    settings = mirror_settings(data, table, auth={"anonymous_pull": ["docker.io/library/**"]})
    found = []
    async with serving_as(settings) as serving:
        for name, tag in (("library/node", "16.13"), ("node", "16.13"), ("team/app", "1")):
            token = (await serving.client.get("/token", params={"scope": f"repository:{name}:pull"})).json()["token"]
            headers = {"authorization": f"Bearer {token}"}
            answer = await serving.client.get(f"/v2/{name}/manifests/{tag}", headers=headers)
            found.append(answer.status_code)

    assert found == [200, 200, 401]
