"""Resolve a requested repository name: to a local repository, or to one of an upstream that is mirrored here. Pure.

The first step that applies decides:

1. `?ns=`: a configured upstream's name or host selects that upstream. This registry's own name selects local repositories,
   without the root mirror. Any other value is unknown. On a write, any value but the own name is refused.
2. An upstream's name as the first part of the repository selects that upstream. The prefix is reserved: see `reserved`.
3. A repository that exists or ever existed locally, or that `[local] namespaces` matches, is local.
4. The upstream with `root = true`, for reads.
5. Local.

The result names the repository whose rows, rules and grants apply: for the upstream's `library/node` that is
`docker.io/library/node`, whichever way the client asked. Grants are checked on that name, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from boltseal.errors import Denied, ErrorCode, Invalid, NotFound, quote
from boltseal.oci.reference import HUB, NameInvalid, Repository
from boltseal.policy.globs import Glob
from boltseal.policy.upstreams import UpstreamTerms

_LIBRARY: Final = "library/"
MIRROR_ACTOR: Final = "mirror:"
"""Prefix of the actor in rows that a mirror wrote, before the upstream's name. User names have no colon."""


class NamespaceUnknown(NotFound):
    """A pull on behalf of a registry that this one is no mirror of."""

    code: ClassVar[ErrorCode | None] = ErrorCode.NAME_UNKNOWN


class NamespaceRefused(Invalid):
    """A write on behalf of another registry."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class MirrorOnly(Denied):
    """A push to a name that belongs to an upstream."""


@dataclass(frozen=True, slots=True)
class ResolvedName:
    """A resolved repository. `remote`: its name at the upstream; `upstream` and `remote` are None for a local one."""

    repository: Repository
    upstream: UpstreamTerms | None = None
    remote: Repository | None = None


@dataclass(frozen=True, slots=True)
class NameResolver:
    """Resolves repository names by the configuration. `own`: this registry's names as `host` or `host:port`, lower case."""

    upstreams: tuple[UpstreamTerms, ...] = ()
    local: tuple[Glob, ...] = ()
    own: frozenset[str] = frozenset()

    def resolve(
        self,
        repository: Repository,
        namespace: str | None,
        *,
        pushes: bool,
        writes: bool,
        known_here: Callable[[Repository], bool],
    ) -> ResolvedName:
        """Resolve the name of one request.

        `writes`: the request changes something. `pushes`: it uploads content. `known_here`: whether a repository ever
        existed locally; called only where the answer decides.

        Raises: NamespaceUnknown, NamespaceRefused, MirrorOnly; NameInvalid when the mapped name is too long.
        """
        ours = namespace is not None and namespace.lower() in self.own
        if namespace is not None and not ours:
            return self._by_namespace(repository, namespace, writes=writes)
        named = self.by_name(repository)
        if named is not None and named.upstream is not None:
            if pushes and not named.upstream.push:
                rest = repository.partition("/")[2]
                raise MirrorOnly(
                    f"{repository} is a mirror of {named.upstream.name}/{rest}; push there, or let `push = true` pass it on"
                )
            return named
        if named is not None or ours or writes or known_here(repository):
            return ResolvedName(repository)
        return _mapped(next(terms for terms in self.upstreams if terms.root), repository)

    def needs_store(self, repository: Repository, namespace: str | None, *, writes: bool) -> bool:
        """Whether `resolve` calls `known_here` for a request. Raises: NameInvalid."""
        return namespace is None and not writes and self.by_name(repository) is None

    def by_name(self, repository: Repository) -> ResolvedName | None:
        """Resolve a name without `?ns=` by its text alone; None where it depends on which repositories exist.

        The result never changes, so callers may cache it. Raises: NameInvalid.
        """
        first, _, rest = repository.partition("/")
        upstream = next((terms for terms in self.upstreams if terms.name == first), None)
        if upstream is not None and rest:
            return _mapped(upstream, Repository(rest))
        if not any(terms.root for terms in self.upstreams) or any(glob.matches(repository) for glob in self.local):
            return ResolvedName(repository)
        return None

    def at_root(self, repository: Repository) -> Repository | None:
        """Return the name as the root mirror would map it; None without a root mirror or for an invalid name.

        It does not depend on which repositories exist, so it reveals nothing and can't decide which side answers.
        """
        root = next((terms for terms in self.upstreams if terms.root), None)
        try:
            return None if root is None else _mapped(root, repository).repository
        except NameInvalid:
            return None

    def check_namespace(self, namespace: str | None, *, writes: bool) -> None:
        """Check `?ns=` of a request that names no repository. Raises: NamespaceUnknown, NamespaceRefused."""
        if namespace is not None and namespace.lower() not in self.own:
            self._named(namespace, writes=writes)

    def reserved(self, names: Iterable[tuple[str, str | None]]) -> str | None:
        """Return the first repository under an upstream's prefix that its mirror did not create; None without one.

        `names`: repositories, each with the actor that created it.
        """
        of_mirrors = {f"{terms.name}/": f"{MIRROR_ACTOR}{terms.name}" for terms in self.upstreams}
        for name, creator in names:
            for prefix, mirror in of_mirrors.items():
                if name.startswith(prefix) and creator != mirror:
                    return name
        return None

    def _by_namespace(self, repository: Repository, namespace: str, *, writes: bool) -> ResolvedName:
        return _mapped(self._named(namespace, writes=writes), repository)

    def _named(self, namespace: str, *, writes: bool) -> UpstreamTerms:
        if writes:
            raise NamespaceRefused(f"ns={quote(namespace)} is for pulls through a mirror; push to that registry itself")
        wanted = namespace.lower()
        for terms in self.upstreams:
            if wanted in (terms.name, terms.authority):
                return terms
        raise NamespaceUnknown(f"this registry serves no images of {quote(namespace)}; it has no such upstream")


NO_UPSTREAMS: Final = NameResolver()


def name_resolver(upstreams: Sequence[UpstreamTerms], local: Sequence[Glob], own: Iterable[str]) -> NameResolver:
    """Build the resolver from the configuration. `own`: names of this registry, in upper or lower case."""
    return NameResolver(tuple(upstreams), tuple(local), frozenset(name.lower() for name in own))


def _mapped(upstream: UpstreamTerms, remote: Repository) -> ResolvedName:
    if upstream.name == HUB and "/" not in remote:
        remote = Repository(_LIBRARY + remote)  # as Docker completes it: both names are one repository
    return ResolvedName(Repository(f"{upstream.name}/{remote}"), upstream, remote)
