"""`python -m bench.required_evidence`: what a rule's `require` costs the push of a tag.

One registry has a rule for each kind of evidence. An image is pushed by digest with its evidence, as a pipeline does; what is
measured is the PUT of its tag, which the rule judges. The kinds alternate, so that other load on the machine affects all alike.

    no rule      the image is signed with a key, but its tag needs nothing: what the others are compared with
    key          a signature by a key, under cosign's signature tag
    bundle       a signature by a key, as a referrer
    certificate  a signature of Notation, under a certificate authority
    identity     a keyless signature, which a process of its own verifies
    ten bundles  ten signatures as referrers, the last of which is by the key that the rule names

Each line has the median and the slowest hundredth of the PUTs, how many times slower that is than without a rule, and the
processor time of the server and its processes for a PUT.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx2

from bench.peers import LOAD_CORE, ON_SERVER_CORE
from bench.postgres import worked_s
from tests.images import Document, image, push, put, signature_tag
from tests.servers import Server, boltseal
from tests.signatures.notation_certificates import Holder, root
from tests.signatures.signed_documents import bundled, keyless, notarized, signed
from tests.signatures.signers import Signer
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority

REPOSITORY: Final = "shop/app"
NO_RULE: Final = "no rule"
RUNS: Final = 200
OTHER_SIGNERS: Final = 9
DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Signers:
    """The signers of the images."""

    release: Signer = field(default_factory=Signer.on_p256)
    others: tuple[Signer, ...] = field(default_factory=lambda: tuple(Signer.on_p256() for _ in range(OTHER_SIGNERS)))
    authority: Authority = field(default_factory=Authority)
    notation: Holder = field(default_factory=lambda: root(begin=datetime.now(UTC) - DAY, end=datetime.now(UTC) + DAY))

    def kinds(self) -> Mapping[str, Callable[[Document], Sequence[tuple[str, Document]]]]:
        """Return by the kind of evidence what is pushed for an image: references and documents."""
        builder = self.notation.issue(begin=datetime.now(UTC) - DAY, end=datetime.now(UTC) + DAY)

        def referrers(*documents: Document) -> Sequence[tuple[str, Document]]:
            return [(document.digest, document) for document in documents]

        def by_key(subject: Document) -> Sequence[tuple[str, Document]]:
            return [(signature_tag(subject), signed(subject, self.release, REPOSITORY))]

        return {
            NO_RULE: by_key,
            "key": by_key,
            "bundle": lambda subject: referrers(bundled(subject, self.release)),
            "certificate": lambda subject: referrers(notarized(subject, builder, "jws")),
            "identity": lambda subject: referrers(keyless(subject, self.authority)),
            "ten bundles": lambda subject: referrers(
                *(bundled(subject, each) for each in (*self.others, self.release))
            ),
        }

    def config(self, folder: Path) -> str:
        """Write the public files into the folder; return the configuration with a rule for each kind."""
        (folder / "release.pub").write_bytes(self.release.pem)
        (folder / "ca.pem").write_bytes(self.notation.pem)
        (folder / "trusted_root.json").write_bytes(self.authority.trusted_root())
        key = f'{{key = "{folder / "release.pub"}"}}'
        trusted = folder / "trusted_root.json"
        identity = f'{{identity = "{IDENTITY}", issuer = "{ISSUER}", trusted_root = "{trusted}"}}'
        needed = {
            "key": key,
            "bundle": key,
            "certificate": f'{{ca = "{folder / "ca.pem"}", subject = "*"}}',
            "identity": identity,
            "ten bundles": key,
        }
        return "\n".join(f'[[rule]]\ntag = "{_prefix(kind)}-*"\nrequire = [{entry}]' for kind, entry in needed.items())


@dataclass(slots=True)
class Taken:
    """What the PUTs of one kind took: milliseconds each, and the processor time of all in seconds."""

    each_ms: list[float] = field(default_factory=list)
    processor_s: float = 0.0

    def line(self, kind: str, compared: Taken) -> str:
        """Return a line of the table."""
        median, slowest = self.quantiles()
        other_median, other_slowest = compared.quantiles()
        return (
            f"{kind:12} {median:8.2f} ms ({median / other_median:5.2f} x)   {slowest:8.2f} ms ({slowest / other_slowest:5.2f} x)"
            f"   {self.processor_s / len(self.each_ms) * 1000:8.2f} ms"
        )

    def quantiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile, in milliseconds."""
        return statistics.median(self.each_ms), sorted(self.each_ms)[-max(1, len(self.each_ms) // 100)]


async def measure(server: Server, signers: Signers, runs: int) -> Mapping[str, Taken]:
    """Push images of each kind by digest, then give each its tag. The first of each kind is not counted."""
    kinds = signers.kinds()
    taken = {kind: Taken() for kind in kinds}
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        for number in range(runs + 1):
            for kind, evidence in kinds.items():
                subject = image(f"{kind} {number}")
                (await push(client, REPOSITORY, subject.digest, subject)).raise_for_status()
                for reference, document in evidence(subject):
                    (await push(client, REPOSITORY, reference, document)).raise_for_status()
                worked, began = worked_s(server.pid), time.perf_counter()
                answer = await put(client, REPOSITORY, f"{_prefix(kind)}-{number}", subject)
                elapsed_ms = (time.perf_counter() - began) * 1000
                if answer.status_code != httpx2.codes.CREATED:
                    raise AssertionError(f"{kind}: {answer.status_code} {answer.text}")
                if number:
                    taken[kind].each_ms.append(elapsed_ms)
                    taken[kind].processor_s += worked_s(server.pid) - worked
    return taken


def _prefix(kind: str) -> str:
    return kind.replace(" ", "-")


def main() -> int:
    """Run the measures and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.required_evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="PUTs of each kind")
    runs = parser.parse_args().runs
    os.sched_setaffinity(0, {LOAD_CORE})
    signers = Signers()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with boltseal(folder / "data", config=signers.config(folder), before=ON_SERVER_CORE) as server:
            taken = asyncio.run(measure(server, signers, runs))
    print(f"{'':12} {'median':>11} {'':10} {'p99':>11} {'':10} {'processor':>11}")
    for kind, times in taken.items():
        print(times.line(kind, taken[NO_RULE]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
