"""Puts every refusal of the seal into the log, once: what was asked of which name, by whom, and which rule stands there.

The person who pushed reads the reason in their client; this is for whoever runs the registry. Here and not at the door,
because the door is asked inside a transaction, and some transactions are tried again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from boltseal.errors import SealedDelete, SealedPut
from boltseal.policy.decide import decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.policy.rules import RuleSet
    from boltseal.registry.values import Actor

_log = structlog.get_logger(__name__)


@contextmanager
def logged(
    asked: str, repository: Repository, tags: Sequence[Tag], digest: Digest | None, actor: Actor, rules: RuleSet
) -> Iterator[None]:
    """Logs a SealedPut or SealedDelete that passes through. `asked`: what was asked for, as "push" or "delete"."""
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
            rule="; ".join(dict.fromkeys(decide(rules, repository, tag).why for tag in tags)) or None,
            reason=error.message,
        )
        raise
