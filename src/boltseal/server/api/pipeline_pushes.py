"""Which tags a pipeline may push, where its rule has `tag` (`policy.pipeline_rules`). Users have no such limits.

- The tags of the rule are compared as they are.
- Those of `also` only while the registry's rules let them move: a release must not seal `1.4` for ever.
- Pushes by digest are allowed. So are the tags of signature tools for an image that the pipeline pushed itself, or that its tag
  resolves to: `sha256-<hex>.sig`.
"""

from __future__ import annotations

from collections.abc import Iterable

from boltseal.errors import Denied
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.pipeline_rules import TagLimits
from boltseal.policy.refusals import RefusalDetail, RefusalReason, Refused
from boltseal.policy.rule_decision import decide, signature_subject
from boltseal.policy.rules import Mode, RuleSet
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.request import Request
from boltseal.server.registry.pulls import ManifestUnknown, Pulls


class TagDenied(Refused, Denied):
    """The rule of a pipeline does not let it push the tag."""


class PipelinePushes:
    """Checks the tags of pushes. `rules`: of the registry."""

    def __init__(self, auth: RequestAuth, pulls: Pulls, rules: RuleSet) -> None:
        self._auth = auth
        self._pulls = pulls
        self._rules = rules

    async def check(self, request: Request, repository: Repository, tags: Iterable[Tag]) -> None:
        """Check the tags that a request would move or say something about. Raises: TagDenied: the pipeline's rule has no such tag."""
        limits = self._auth.tag_limits(request, repository)
        if limits is None:
            return
        for tag in tags:
            if not await self._is_allowed(request, repository, tag, limits):
                raise TagDenied(
                    f"{request.actor.name} may not push tag {tag} of {repository}: {_why(tag, limits)}",
                    RefusalDetail(RefusalReason.DENIED, tag),
                )

    async def _is_allowed(self, request: Request, repository: Repository, tag: Tag, limits: TagLimits) -> bool:
        if tag in limits.tags:
            return True
        if tag in limits.also:
            return decide(self._rules, repository, tag).mode is Mode.FLOATING
        subject = signature_subject(tag)
        return subject is not None and await self._is_own(request, repository, subject, limits)

    async def _is_own(self, request: Request, repository: Repository, image: Digest, limits: TagLimits) -> bool:
        """Return whether the pipeline pushed an image, or a tag that it may push resolves to it."""
        if await self._pulls.pushed_by(repository, image) == request.actor.name:
            return True
        for tag in limits.tags:
            try:
                found = await self._pulls.manifest(repository, Tag(tag))
            except ManifestUnknown:
                continue
            if found.digest == image:
                return True
        return False


def _why(tag: Tag, limits: TagLimits) -> str:
    """Return why a tag may not be pushed, and what to do."""
    if tag in limits.also:
        return f'`also` allows only mutable tags, and this one is not; add a [[rule]] with tag = "{tag}" and mode = "floating"'
    return f"its rule allows {', '.join(sorted(limits.tags | limits.also))}; push one of these, or change [[auth.issuer.rule]]"
