"""Resolution of repository names: the steps and their order."""

from __future__ import annotations

import pytest

from boltseal.oci.reference import NameInvalid, Repository
from boltseal.policy.globs import parse_repository_glob
from boltseal.policy.name_resolution import MirrorOnly, NamespaceRefused, NamespaceUnknown, ResolvedName, name_resolver
from boltseal.policy.upstreams import parse_upstreams

UPSTREAMS = parse_upstreams(
    [{"name": "docker.io", "root": True}, {"name": "ghcr.io", "push": True}, {"name": "near", "url": "http://reg:5001"}]
)
HUB, GHCR, NEAR = UPSTREAMS
RESOLVER = name_resolver(UPSTREAMS, [parse_repository_glob("shop/**")], ["Registry.example:8443"])


def resolve(
    name: str, ns: str | None = None, *, pushes: bool = False, writes: bool = False, here: tuple[str, ...] = ()
) -> ResolvedName:
    return RESOLVER.resolve(
        Repository(name), ns, pushes=pushes, writes=writes or pushes, known_here=lambda each: each in here
    )


def at_hub(remote: str) -> ResolvedName:
    return ResolvedName(Repository(f"docker.io/{remote}"), HUB, Repository(remote))


def test_an_upstreams_name_selects_it() -> None:
    """The rest of the name is what upstream calls it."""
    assert resolve("docker.io/library/node") == at_hub("library/node")
    assert resolve("ghcr.io/a/b/c") == ResolvedName(Repository("ghcr.io/a/b/c"), GHCR, Repository("a/b/c"))


def test_the_hubs_short_names_are_completed() -> None:
    """As Docker does: both are one repository here. Other registries have no short names."""
    assert resolve("docker.io/node") == resolve("docker.io/library/node")
    assert resolve("ghcr.io/node").remote == "node"


def test_a_namespace_selects_its_upstream() -> None:
    """By name, by host and port, in any case; and however it is asked for, it is one repository."""
    assert resolve("library/node", "docker.io") == at_hub("library/node")
    assert resolve("library/node", "Docker.IO") == at_hub("library/node")
    assert resolve("app", "reg:5001") == ResolvedName(Repository("near/app"), NEAR, Repository("app"))


def test_a_namespace_wins_over_what_is_here() -> None:
    """Who asks for the hub's shop/app does not get ours."""
    assert resolve("shop/app", "docker.io", here=("shop/app",)) == at_hub("shop/app")


def test_an_unknown_namespace_is_refused() -> None:
    """Even where the root mirror would have an answer."""
    with pytest.raises(NamespaceUnknown):
        resolve("library/node", "quay.io")


@pytest.mark.parametrize("ns", ["docker.io", "quay.io"])
def test_a_namespace_on_a_write_is_refused(ns: str) -> None:
    """A push to, or a deletion at, another registry is not accepted here."""
    with pytest.raises(NamespaceRefused):
        resolve("library/node", ns, pushes=True)
    with pytest.raises(NamespaceRefused):
        resolve("library/node", ns, writes=True)


def test_our_own_name_selects_local_repositories() -> None:
    """The root mirror has no say in it; an upstream's prefix does. Writes are ordinary writes."""
    assert resolve("library/node", "registry.example:8443") == ResolvedName(Repository("library/node"))
    assert resolve("docker.io/library/node", "registry.example:8443") == at_hub("library/node")
    assert resolve("library/node", "registry.example:8443", pushes=True) == ResolvedName(Repository("library/node"))


def test_what_was_ever_here_is_ours() -> None:
    """The root mirror never answers for it."""
    assert resolve("library/node", here=("library/node",)) == ResolvedName(Repository("library/node"))


def test_a_local_namespace_is_local_before_the_first_push() -> None:
    """An image of the hub can never take the place of a local one."""
    assert resolve("shop/new") == ResolvedName(Repository("shop/new"))


def test_a_name_without_an_owner_belongs_to_the_root_mirror() -> None:
    """For reads; what is pushed is ours from then on."""
    assert resolve("library/node") == at_hub("library/node")
    assert resolve("library/node", pushes=True) == ResolvedName(Repository("library/node"))
    assert resolve("library/node", writes=True) == ResolvedName(Repository("library/node"))


def test_without_a_root_mirror_it_is_not_here() -> None:
    """Without a root mirror a name resolves to a local repository, also when that does not exist."""
    resolver = name_resolver(UPSTREAMS[1:], [], [])
    found = resolver.resolve(Repository("a/b"), None, pushes=False, writes=False, known_here=lambda _: False)

    assert found == ResolvedName(Repository("a/b"))


def test_a_push_to_a_mirror_is_refused() -> None:
    """Unless it is a gate. What was fetched may be deleted."""
    with pytest.raises(MirrorOnly, match="push there"):
        resolve("docker.io/library/node", pushes=True)

    assert resolve("docker.io/library/node", writes=True) == at_hub("library/node")
    assert resolve("ghcr.io/a/b", pushes=True).upstream == GHCR


def test_an_upstreams_name_alone_is_a_name_of_ours() -> None:
    """`docker.io` without anything behind it names no repository of the hub."""
    assert resolve("docker.io", here=("docker.io",)) == ResolvedName(Repository("docker.io"))


def test_a_name_that_gets_too_long_is_refused() -> None:
    """Ours has the upstream's before it."""
    with pytest.raises(NameInvalid):
        resolve("a" * 250, "docker.io")


def test_a_request_without_a_repository_may_name_a_namespace() -> None:
    """Clients ask `/v2/` so."""
    RESOLVER.check_namespace(None, writes=False)
    RESOLVER.check_namespace("docker.io", writes=False)
    RESOLVER.check_namespace("registry.example:8443", writes=True)

    with pytest.raises(NamespaceUnknown):
        RESOLVER.check_namespace("quay.io", writes=False)
    with pytest.raises(NamespaceRefused):
        RESOLVER.check_namespace("docker.io", writes=True)


def test_local_repositories_may_not_be_below_an_upstreams_prefix() -> None:
    """What the mirror fetched may be there; repositories that were pushed, or of unknown origin, may not."""
    mirrored = ("docker.io/library/node", "mirror:docker.io")

    assert RESOLVER.reserved([mirrored, ("shop/app", "ci"), ("docker.io-like/app", "ci")]) is None
    assert RESOLVER.reserved([mirrored, ("docker.io/a/b", "ci")]) == "docker.io/a/b"
    assert RESOLVER.reserved([("ghcr.io/a/b", None)]) == "ghcr.io/a/b"
    assert RESOLVER.reserved([("ghcr.io/a/b", "mirror:docker.io")]) == "ghcr.io/a/b"


def test_a_name_at_the_root_is_resolved_without_a_look_up() -> None:
    """The answer must not reveal whether a local repository exists."""
    without = name_resolver(UPSTREAMS[1:], [], [])
    long = Repository("a" * 250)

    assert RESOLVER.at_root(Repository("node")) == Repository("docker.io/library/node")
    assert RESOLVER.at_root(Repository("shop/app")) == Repository("docker.io/shop/app")
    assert RESOLVER.at_root(long) is None
    assert without.at_root(Repository("node")) is None


@pytest.mark.parametrize(
    ("name", "ns", "writes"),
    [
        ("other/app", None, False),
        ("other/app", None, True),
        ("shop/app", None, False),
        ("docker.io/library/node", None, False),
        ("other/app", "docker.io", False),
        ("other/app", "Registry.example:8443", False),
    ],
)
def test_the_store_is_asked_only_where_it_decides(name: str, ns: str | None, *, writes: bool) -> None:
    """`needs_store` says beforehand whether `resolve` calls `known_here`."""
    asked: list[Repository] = []

    def known_here(repository: Repository) -> bool:
        asked.append(repository)
        return False

    RESOLVER.resolve(Repository(name), ns, pushes=False, writes=writes, known_here=known_here)

    assert RESOLVER.needs_store(Repository(name), ns, writes=writes) == bool(asked)
