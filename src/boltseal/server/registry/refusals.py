"""Logs every refusal by a seal: the request, the tags, the actor, and the rule that applies.

The client reads the reason in its error message; the log line and the callback are for the operator. The refusal is
logged here and not in the tag writer, which runs inside a transaction that may be retried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from boltseal.errors import SealedDelete, SealedPut
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import RuleSet
from boltseal.server.auth.actor import Actor

_log = structlog.get_logger(__name__)


class RefusedWrite(NamedTuple):
    """One refused write.

    `request`: "push" or "delete". `digest`: of the pushed manifest, or of the one to delete. `reason`: the error message.
    """

    request: str
    repository: Repository
    tags: tuple[Tag, ...]
    digest: Digest | None
    actor: str
    reason: str


class RefusalLog:
    """Logs refusals. `on_refusal` is called with each; it must neither wait nor raise."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self.on_refusal: Callable[[RefusedWrite], None] = lambda _: None

    @contextmanager
    def logged(
        self, request: str, repository: Repository, tags: Sequence[Tag], digest: Digest | None, actor: Actor
    ) -> Iterator[None]:
        """Log each SealedPut and SealedDelete that the block raises. `request`: "push" or "delete"."""
        try:
            yield
        except (SealedPut, SealedDelete) as error:
            _log.warning(
                "refused",
                asked=request,
                repository=repository,
                tag=" ".join(tags) or None,
                digest=None if digest is None else str(digest),
                actor=actor.recorded,
                rule="; ".join(dict.fromkeys(decide(self._rules, repository, tag).why for tag in tags)) or None,
                reason=error.message,
            )
            self.on_refusal(RefusedWrite(request, repository, tuple(tags), digest, actor.recorded, error.message))
            raise
