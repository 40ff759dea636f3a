"""An explained change whose new version the registry does not show."""

from __future__ import annotations

from pathlib import Path

from boltseal.cli.explanation_text import as_markdown, as_text
from boltseal.client.credentials import CredentialStore
from boltseal.client.transport import Transport, TransportOptions
from boltseal.commands.client_context import ClientContext
from boltseal.commands.explained_changes import ImageChange, explain_changes
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import ClientPaths
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


async def test_a_version_that_can_not_be_resolved_is_a_result(tmp_path: Path) -> None:
    """A proposed version that can't be resolved is explained as *could not check*, with the reason, and stops nothing."""
    client = ClientContext(ClientPaths((), "", tmp_path / "none.toml"), tmp_path / "state", lambda: 0, lambda _: None)
    old, new = (Reference.parse(f"registry.test/shop/app:{tag}") for tag in ("1.4.2", "1.4.3"))
    change = ImageChange(("web",), old, Digest.of(b"old"), new, None, "registry.test does not answer")
    transport = Transport(CredentialStore(()), TransportOptions())
    found = await explain_changes([change], transport, RegistryOptions(client))
    await transport.aclose()
    [as_json] = [each.as_json() for each in found]

    assert (as_json["new"]["digest"], as_json["known_since"]) == (None, None)
    assert as_json["reason"] == "could not check: registry.test does not answer"
    assert "  new         not resolved" in as_text(found, 0)
    assert "| contents | `could not check: registry.test does not answer` |" in as_markdown(found, 0)
    assert not any("known" in line for line in as_text(found, 0))
