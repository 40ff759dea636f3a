"""Tells of every refusal of the seal, once: what was asked of which name, by whom, and which rule stands there.

The person who pushed reads the reason in their client; this is for whoever runs the registry: a line of the log, and
whoever `tell` hands it on to. Here and not at the door, because the door is asked inside a transaction, and some
transactions are tried again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import structlog

from boltseal.errors import SealedDelete, SealedPut
from boltseal.policy.rule_decision import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.policy.rules import RuleSet
    from boltseal.server.auth.actor import Actor

_log = structlog.get_logger(__name__)


class RefusedWrite(NamedTuple):
    """One refusal. `asked`: push or delete. `digest`: of what was pushed, or was to be deleted. `reason`: for the person."""

    asked: str
    repository: Repository
    tags: tuple[Tag, ...]
    digest: Digest | None
    actor: str
    reason: str


class RefusalLog:
    """Where they pass. `tell` is handed each; it neither waits nor raises."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self.tell: Callable[[RefusedWrite], None] = lambda _: None

    @contextmanager
    def told(
        self, asked: str, repository: Repository, tags: Sequence[Tag], digest: Digest | None, actor: Actor
    ) -> Iterator[None]:
        """Tells of a SealedPut or SealedDelete that passes through. `asked`: what was asked for, as "push" or "delete"."""
        try:
            yield
        except (SealedPut, SealedDelete) as error:
            _log.warning(
                "refused",
                asked=asked,
                repository=repository,
                tag=" ".join(tags) or None,
                digest=None if digest is None else str(digest),
                actor=actor.name,
                rule="; ".join(dict.fromkeys(decide(self._rules, repository, tag).why for tag in tags)) or None,
                reason=error.message,
            )
            self.tell(RefusedWrite(asked, repository, tuple(tags), digest, actor.name, error.message))
            raise
