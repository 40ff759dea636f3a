"""Pin the key of a registry's ledger, list the known ledgers, or forget one."""

from __future__ import annotations

from boltseal.client.history import OBSERVATIONS
from boltseal.client.ledger_client import registry_of
from boltseal.client.ledger_trust import give_key
from boltseal.client.state import KnownLedger
from boltseal.commands.client_context import ClientContext
from boltseal.errors import Invalid, quote
from boltseal.ledger.note import VerifierKey
from boltseal.oci.reference import Reference


def ledger_name(text: str) -> str:
    """Return the name under which a registry's ledger is known. Raises: Invalid: not a registry."""
    registry = registry_of(text)
    if Reference.parse(f"{registry}/name").registry != registry:
        raise Invalid(
            f"{quote(text)} is not a registry; expected a host, optionally with a port, such as localhost:5000"
        )
    return f"{registry}/{OBSERVATIONS}" if text.rstrip("/").endswith(f"/{OBSERVATIONS}") else registry


def known_ledgers(registry: str | None, client: ClientContext) -> list[KnownLedger]:
    """Return the stored state of all ledgers, or of one registry's."""
    if registry is None:
        return list(client.state.all())
    found = client.state.known(registry)
    return [] if found is None else [found]


def pin_key(registry: str, key: str, client: ClientContext, *, replace: bool) -> KnownLedger:
    """Pin a ledger's key. Raises: KeyInvalid; KeyDiffers: another one is pinned, or did not sign what was seen."""
    return give_key(client.state, registry, VerifierKey.parse(key), client.now_s(), replace=replace)


def forget_ledger(registry: str, client: ClientContext) -> bool:
    """Delete the stored state of a registry's ledger; return whether there was any."""
    return client.state.forget(registry)
