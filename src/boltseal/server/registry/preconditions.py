"""What a client says must be so for its write to count (`If-Match`, `If-None-Match`), held against what is so.

Asked inside the transaction, before any other rule: a 412 wins over whatever a seal would say, also over a push of the
same digest. How the headers are read is the API's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from boltseal.errors import Precondition, quote

if TYPE_CHECKING:
    from boltseal.server.registry.models import Conditions

_SHOWN_CONDITIONS: Final = 3


class ConditionFailed(Precondition):
    """The name does not mean what the client said it must."""


def check_conditions(conditions: Conditions, what: str, means: str | None) -> None:
    """Hold a name (or a manifest, `what` says which) against what the client says it must be. ConditionFailed."""
    if conditions.if_none_match_any and means is not None:
        raise ConditionFailed(f"{what} exists ({means}), and the request asked for it not to (If-None-Match: *)")
    if conditions.if_match is None:
        return
    if means is None:
        raise ConditionFailed(f"{what} does not exist, and the request asked for it to (If-Match)")
    if "*" not in conditions.if_match and means not in conditions.if_match:
        wanted = [quote(each, 140) for each in sorted(conditions.if_match)]
        shown = " or ".join(wanted[:_SHOWN_CONDITIONS]) or "what nothing can be"
        more = f" or {len(wanted) - _SHOWN_CONDITIONS} others" if len(wanted) > _SHOWN_CONDITIONS else ""
        raise ConditionFailed(f"{what} is {means}, and the request asked for {shown}{more} (If-Match)")
