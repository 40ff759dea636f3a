"""The settings that the container image gives, and what boltseal takes from variables."""

from __future__ import annotations

from tests.cli import program as boltseal
from tests.docs.pages import ROOT


def settings_of_image() -> dict[str, str]:
    """Return the settings that the image gives as environment variables."""
    containerfile = (ROOT / "packaging" / "Containerfile").read_text(encoding="utf-8")
    return dict(word.split("=") for word in containerfile.replace("\\\n", " ").split() if word.startswith("BOLTSEAL_"))


def settings_in_force(variables: dict[str, str]) -> dict[str, str]:
    """Return the settings that boltseal takes from these variables; one that it does not know is an error."""
    rows = boltseal.run("admin", "config", "--json", environment=variables).json["results"]
    return {row["ref"]: row["value"] for row in rows if row["status"] == "environment"}
