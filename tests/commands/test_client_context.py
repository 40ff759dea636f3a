"""The context of a client use case."""

from __future__ import annotations

from pathlib import Path

from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import client_paths


def test_a_further_round_reads_the_settings_again(tmp_path: Path) -> None:
    """Within one round the settings stay as they were read first."""
    settings = tmp_path / "boltseal.toml"
    settings.write_text('[client]\nregistries = ["a.example.com"]\n')
    client = ClientContext(client_paths()._replace(settings=settings), tmp_path, lambda: 0, print)
    options = RegistryOptions(client)
    first = options.client.settings.registries
    settings.write_text('[client]\nregistries = ["b.example.com"]\n')

    assert (first, options.client.settings.registries) == (("a.example.com",), ("a.example.com",))
    assert options.renewed().client.settings.registries == ("b.example.com",)
