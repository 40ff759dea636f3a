"""What a scan for outdated bases checks, and its result for each image. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BaseClaim
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict, worst_verdict


@dataclass(frozen=True, slots=True)
class ImageToCheck:
    """An image to check. `name`: as the user gave it. `reference`: with a tag or a digest; the digest has priority.

    `platforms`: those in use; (): all platforms of the image. `base`: what the caller infers about its base.
    `runs_on`: the hosts and containers that run it, if these were asked. `in_use`: whether it runs, or a project's files name it.
    """

    name: str
    reference: Reference
    platforms: tuple[Platform, ...] = ()
    base: BaseClaim | None = None
    runs_on: tuple[str, ...] = ()
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class BaseReport:
    """The result for an image: a verdict for each platform, or the error that prevented all.

    `may_move`: its tag has a newer revision, but is mutable, so that its rebuild moves the tag itself.
    """

    wanted: ImageToCheck
    digest: Digest | None = None
    verdicts: tuple[BaseVerdict, ...] = ()
    error: BoltsealError | None = None
    may_move: bool = False

    @property
    def verdict(self) -> BaseVerdict:
        """The verdict that decides."""
        if self.error is not None or not self.verdicts:
            reason = "it has no image for the platforms in use" if self.error is None else self.error.message
            return BaseVerdict(BaseStatus.UNKNOWN, reason)
        return worst_verdict(self.verdicts)

    @property
    def by_platform(self) -> Mapping[str, BaseVerdict]:
        """The verdicts by platform; if an error prevented all, that of all platforms."""
        return {verdict.platform: verdict for verdict in self.verdicts} or {"": self.verdict}
