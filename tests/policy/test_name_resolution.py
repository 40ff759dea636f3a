"""Resolution of repository names to local repositories and upstreams: the steps and their order."""

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
    """In a name with an upstream's prefix, the rest is the upstream's own name."""
    assert resolve("docker.io/library/node") == at_hub("library/node")
    assert resolve("ghcr.io/a/b/c") == ResolvedName(Repository("ghcr.io/a/b/c"), GHCR, Repository("a/b/c"))


def test_docker_hubs_short_names_are_completed() -> None:
    """As in Docker, Docker Hub's short and long names are one repository; other registries have no short names."""
    assert resolve("docker.io/node") == resolve("docker.io/library/node")
    assert resolve("ghcr.io/node").remote == "node"


def test_a_namespace_selects_its_upstream() -> None:
    """`ns` selects an upstream by name, or by host and port in any case, and all spellings are one repository."""
    assert resolve("library/node", "docker.io") == at_hub("library/node")
    assert resolve("library/node", "Docker.IO") == at_hub("library/node")
    assert resolve("app", "reg:5001") == ResolvedName(Repository("near/app"), NEAR, Repository("app"))


def test_a_namespace_takes_precedence_over_a_local_repository() -> None:
    """With `ns`, an upstream's repository is selected even if a local one has that name."""
    assert resolve("shop/app", "docker.io", here=("shop/app",)) == at_hub("shop/app")


def test_an_unknown_namespace_is_refused() -> None:
    """An unknown `ns` is refused, even if the root mirror could answer."""
    with pytest.raises(NamespaceUnknown):
        resolve("library/node", "quay.io")


@pytest.mark.parametrize("ns", ["docker.io", "quay.io"])
def test_a_namespace_on_a_write_is_refused(ns: str) -> None:
    """A write with `ns` is refused."""
    with pytest.raises(NamespaceRefused):
        resolve("library/node", ns, pushes=True)
    with pytest.raises(NamespaceRefused):
        resolve("library/node", ns, writes=True)


def test_the_registrys_own_name_selects_local_repositories() -> None:
    """With this registry's own name as `ns`, the root mirror does not apply, but an upstream's prefix does."""
    assert resolve("library/node", "registry.example:8443") == ResolvedName(Repository("library/node"))
    assert resolve("docker.io/library/node", "registry.example:8443") == at_hub("library/node")
    assert resolve("library/node", "registry.example:8443", pushes=True) == ResolvedName(Repository("library/node"))


def test_a_name_that_was_ever_local_stays_local() -> None:
    """The root mirror never answers for a name that was ever local."""
    assert resolve("library/node", here=("library/node",)) == ResolvedName(Repository("library/node"))


def test_a_local_namespace_is_local_before_the_first_push() -> None:
    """A name in a local namespace is local before its first push, so Docker Hub can't replace it."""
    assert resolve("shop/new") == ResolvedName(Repository("shop/new"))


def test_a_name_without_an_owner_belongs_to_the_root_mirror() -> None:
    """An unknown unqualified name belongs to the root mirror for reads; after a push it is local."""
    assert resolve("library/node") == at_hub("library/node")
    assert resolve("library/node", pushes=True) == ResolvedName(Repository("library/node"))
    assert resolve("library/node", writes=True) == ResolvedName(Repository("library/node"))


def test_without_a_root_mirror_a_name_is_local() -> None:
    """Without a root mirror, an unqualified name is local, even if no such repository exists."""
    resolver = name_resolver(UPSTREAMS[1:], [], [])
    found = resolver.resolve(Repository("a/b"), None, pushes=False, writes=False, known_here=lambda _: False)

    assert found == ResolvedName(Repository("a/b"))


def test_a_push_to_a_mirror_is_refused() -> None:
    """A push to a mirrored repository is refused unless the upstream is a push proxy; cached content may be deleted."""
    with pytest.raises(MirrorOnly, match="push there"):
        resolve("docker.io/library/node", pushes=True)

    assert resolve("docker.io/library/node", writes=True) == at_hub("library/node")
    assert resolve("ghcr.io/a/b", pushes=True).upstream == GHCR


def test_an_upstreams_name_alone_is_a_local_name() -> None:
    """`docker.io` without further parts is a local repository's name."""
    assert resolve("docker.io", here=("docker.io",)) == ResolvedName(Repository("docker.io"))


def test_a_name_that_gets_too_long_is_refused() -> None:
    """A name that exceeds the length limit with the upstream's prefix is refused."""
    with pytest.raises(NameInvalid):
        resolve("a" * 250, "docker.io")


def test_a_request_without_a_repository_may_name_a_namespace() -> None:
    """A request for `/v2/` may have `ns`, as some clients send it."""
    RESOLVER.check_namespace(None, writes=False)
    RESOLVER.check_namespace("docker.io", writes=False)
    RESOLVER.check_namespace("registry.example:8443", writes=True)

    with pytest.raises(NamespaceUnknown):
        RESOLVER.check_namespace("quay.io", writes=False)
    with pytest.raises(NamespaceRefused):
        RESOLVER.check_namespace("docker.io", writes=True)


def test_local_repositories_may_not_be_below_an_upstreams_prefix() -> None:
    """Cached repositories may be below an upstream's prefix; pushed ones, or those of unknown origin, may not."""
    mirrored = ("docker.io/library/node", "mirror:docker.io")

    assert RESOLVER.reserved([mirrored, ("shop/app", "ci"), ("docker.io-like/app", "ci")]) is None
    assert RESOLVER.reserved([mirrored, ("docker.io/a/b", "ci")]) == "docker.io/a/b"
    assert RESOLVER.reserved([("ghcr.io/a/b", None)]) == "ghcr.io/a/b"
    assert RESOLVER.reserved([("ghcr.io/a/b", "mirror:docker.io")]) == "ghcr.io/a/b"


def test_a_name_at_the_root_is_resolved_without_a_look_up() -> None:
    """Whether a local repository exists is not looked up where the answer would reveal it."""
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
def test_the_store_is_queried_only_where_it_decides(name: str, ns: str | None, *, writes: bool) -> None:
    """`needs_store` is true exactly if `resolve` calls `known_here`."""
    asked: list[Repository] = []

    def known_here(repository: Repository) -> bool:
        asked.append(repository)
        return False

    RESOLVER.resolve(Repository(name), ns, pushes=False, writes=writes, known_here=known_here)

    assert RESOLVER.needs_store(Repository(name), ns, writes=writes) == bool(asked)
