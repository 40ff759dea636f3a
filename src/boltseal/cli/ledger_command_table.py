"""The section of ledger commands in the table of commands (`command_table`)."""

from __future__ import annotations

from typing import Final

from boltseal.cli.command_rows import Command, Group, Section

_IMAGE: Final = "localhost:5000/shop/app:1.4.2"
_SERVER: Final = "server"

LEDGER: Final = Section(
    "Ledger",
    (
        Group(
            "ledger",
            "Trust, prove and monitor what a ledger records",
            "Trust, prove and monitor what a ledger records; show, rotate or recover one.",
            (
                Command(
                    "ledger trust",
                    "Pin a registry's ledger key.",
                    'boltseal ledger trust localhost:5000 "$(cat ledger.pub)"',
                    keywords="key pin verify tofu",
                ),
                Command(
                    "ledger receipt",
                    "Write, attach or verify a proof of what a tag resolves to.",
                    f"boltseal ledger receipt {_IMAGE} -o app.tlog-proof",
                    keywords="proof evidence attestation in-toto referrer offline verify",
                    group=True,
                ),
                Command(
                    "ledger monitor",
                    "Follow a ledger from outside, entry by entry.",
                    "boltseal ledger monitor https://registry.example.com --tags",
                    keywords="audit tamper watch transparency witness",
                ),
                Command(
                    "ledger key",
                    "Print the public key that signs the ledger.",
                    "boltseal ledger key --data ./data",
                    keywords="public verifier",
                    extra=_SERVER,
                ),
                Command(
                    "ledger rotate",
                    "Sign the ledger with a new key.",
                    'boltseal ledger rotate --data ./data --reason "once a year"',
                    keywords="new key renew",
                    extra=_SERVER,
                ),
                Command(
                    "ledger recover",
                    "Recover a ledger that is behind its signed state.",
                    "boltseal ledger recover --from /mnt/old-disk/data --data ./data",
                    keywords="repair lost rollback behind",
                    extra=_SERVER,
                ),
            ),
        ),
    ),
)
