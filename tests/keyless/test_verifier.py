"""The process that verifies keyless signatures, seen from outside: it is limited, and its failure is no result."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from boltseal.keyless.verifier import KeylessUnavailable, KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.policy.keyless_signers import CheckedBundle
from boltseal.policy.requirements import StoredEvidence
from boltseal.signatures.dsse import ENVELOPE
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.keyless_bundle import RefusedBundle, VerifiedBundle
from boltseal.signatures.signed_image import CertificateIdentity
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.trusted_root import TrustedRoot
from tests.signatures.signers import Signer, encoded, statement
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority, pae

PAYLOAD = encoded(statement(Digest.of(b"image")))
AUTHORITY = Authority()
ROOT, OTHER_ROOT = TrustedRoot.parse(AUTHORITY.trusted_root()), TrustedRoot.parse(Authority().trusted_root())
SIGNED = encoded(AUTHORITY.bundle(PAYLOAD))


def stored(*bundles: bytes) -> list[StoredEvidence]:
    return [StoredEvidence(Digest.of(raw), (EvidenceLayer(BUNDLE, raw),)) for raw in bundles]


def checked(root: TrustedRoot, raw: bytes) -> CheckedBundle:
    return CheckedBundle(root.fingerprint, sha256(raw).hexdigest())


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Writes a shell script in place of Python, which notes each of its starts, and returns its path."""

    def write(lines: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\n{lines}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return write


async def test_each_bundle_is_verified_under_each_root() -> None:
    """The root that trusts the services proves the identity, another one refuses; what is no keyless bundle is left out."""
    keyed = encoded(Signer.on_p256().bundle(PAYLOAD))
    evidence = [*stored(SIGNED, keyed, b"no JSON"), StoredEvidence(Digest.of(b"e"), (EvidenceLayer(ENVELOPE, SIGNED),))]
    results = await KeylessVerifier().results([ROOT, OTHER_ROOT], evidence)
    refused = results[checked(OTHER_ROOT, SIGNED)]

    assert results.keys() == {checked(ROOT, SIGNED), checked(OTHER_ROOT, SIGNED)}
    assert results[checked(ROOT, SIGNED)] == VerifiedBundle(
        CertificateIdentity((IDENTITY,), ISSUER), sha256(pae(PAYLOAD)).hexdigest()
    )
    assert isinstance(refused, RefusedBundle)
    assert refused.why


async def test_without_a_root_no_process_is_started(program: Callable[[str], str], tmp_path: Path) -> None:
    """Rules without keyless signers cost nothing, and neither does evidence without keyless bundles."""
    verifier = KeylessVerifier(python=program("exit 1"))

    assert await verifier.results([], stored(SIGNED)) == {}
    assert await verifier.results([ROOT], stored(b"no JSON")) == {}
    assert not (tmp_path / "starts").exists()


async def test_a_result_is_remembered(program: Callable[[str], str], tmp_path: Path) -> None:
    """The digests of bundle and root decide the result, so a process verifies a bundle only the first time."""
    verifier = KeylessVerifier(python=program(f'exec {sys.executable} "$@"'))
    first = await verifier.results([ROOT], stored(SIGNED))
    again = await verifier.results([ROOT], stored(SIGNED))
    await verifier.results([OTHER_ROOT], stored(SIGNED))

    assert again == first
    assert (tmp_path / "starts").read_text() == "started\n" * 2


@pytest.mark.parametrize(("refused_s", "starts"), [(0.0, 2), (300.0, 1)])
async def test_a_refusal_is_remembered_for_a_while(
    program: Callable[[str], str], tmp_path: Path, refused_s: float, starts: int
) -> None:
    """A trusted root may have a key that is valid later, and a clock may be set: then a bundle is verified again."""
    refusal = 'echo \'{"results": [{"refused": "not yet"}]}\''
    lines = f"[ -e {tmp_path}/asked ] || {{ touch {tmp_path}/asked; cat > /dev/null; {refusal}; exit; }}\n"
    verifier = KeylessVerifier(python=program(f'{lines}exec {sys.executable} "$@"'), refused_s=refused_s)
    first = await verifier.results([ROOT], stored(SIGNED))
    again = await verifier.results([ROOT], stored(SIGNED))

    assert first == {checked(ROOT, SIGNED): RefusedBundle("not yet")}
    assert isinstance(again[checked(ROOT, SIGNED)], VerifiedBundle if starts == 2 else RefusedBundle)
    assert (tmp_path / "starts").read_text() == "started\n" * starts


async def test_results_that_were_forgotten_meanwhile_are_not_missing() -> None:
    """Two images at once, while one result is remembered: each gets the results for all its bundles."""
    others = [encoded(AUTHORITY.bundle(encoded(statement(Digest.of(text))))) for text in (b"one", b"two")]
    verifier = KeylessVerifier(remembered=1)
    await verifier.results([ROOT], stored(SIGNED))
    found = await asyncio.gather(*(verifier.results([ROOT], stored(SIGNED, other)) for other in others))

    assert [len(each) for each in found] == [2, 2]
    assert all(isinstance(result, VerifiedBundle) for each in found for result in each.values())


FAILURES = {
    "it dies": ("kill -9 $$", "ended with signal 9"),
    "it fails": ("exit 3", "ended with 3"),
    "it hangs": ("exec sleep 600", "did not end within 1 s"),
    "it says nothing": ("cat > /dev/null", "did not answer with results"),
    "it says something else": ("echo verified", "did not answer with results"),
    "more than results": ('echo \'{"results": [], "trusted": true}\'', "did not answer with results"),
    "too few results": ("echo '{\"results\": []}'", "another number of signatures"),
    "endless": ("exec cat /dev/zero", "more than 4194304 bytes"),
    "no root": ('echo \'{"root_refused": "unreadable"}\'', "the trusted root can't be used: unreadable"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "why"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_process_that_fails_is_no_result(
    program: Callable[[str], str], lines: str, why: str, tmp_path: Path
) -> None:
    """Nothing is known then, nothing is remembered, and the next push tries again."""
    verifier = KeylessVerifier(timeout_s=1, python=program(lines))
    for _ in range(2):
        with pytest.raises(KeylessUnavailable, match=why):
            await verifier.results([ROOT], stored(SIGNED))

    assert (tmp_path / "starts").read_text() == "started\n" * 2


async def test_a_program_that_is_gone_is_no_result(tmp_path: Path) -> None:
    """An upgrade may remove the Python of a running server."""
    with pytest.raises(KeylessUnavailable, match="can't be run: No such file"):
        await KeylessVerifier(python=str(tmp_path / "gone")).results([ROOT], stored(SIGNED))


async def test_a_result_without_a_proof_is_a_refusal(program: Callable[[str], str]) -> None:
    """A result that says neither what was signed nor why not is none that passes."""
    verifier = KeylessVerifier(
        python=program('cat > /dev/null; echo \'{"results": [{"names": ["release@acme.example"]}]}\'')
    )
    results = await verifier.results([ROOT], stored(SIGNED))

    assert results[checked(ROOT, SIGNED)] == RefusedBundle("the process gave no reason")


LIMITS = {
    "a connection": "socket.create_connection(('127.0.0.1', 9))",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a name": "socket.getaddrinfo('localhost', 80)",
    "a program": "subprocess.run(['true'])",
    "a shell": "os.system('true')",
    "a fork": "os.fork()",
    "a file": "open('written', 'w').write('x' * 10_000)",
    "memory": "bytearray(3 * 1024**3)",
}  # fmt: skip


@pytest.mark.parametrize("attempt", LIMITS.values(), ids=LIMITS.keys())
def test_the_process_is_limited(attempt: str, tmp_path: Path) -> None:
    """A library that was taken over reaches no network, starts no program and writes no file."""
    code = f"import os, socket, subprocess\nfrom boltseal.keyless import process\nprocess.limit()\n{attempt}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    written = tmp_path / "written"

    assert done.returncode != 0
    assert any(each in done.stderr for each in ("Blocked", "MemoryError", "File too large"))
    assert not written.exists() or written.read_bytes() == b""


def test_a_request_that_is_too_large_ends_the_process() -> None:
    """The bytes of evidence are bounded before; this bounds them again."""
    code = "from boltseal.keyless import process; process.MAX_REQUEST_BYTES = 10; raise SystemExit(process.main())"
    done = subprocess.run([sys.executable, "-c", code], input=b"{}" * 10, capture_output=True, timeout=120, check=False)

    assert (done.returncode, done.stdout) == (10, b"")
