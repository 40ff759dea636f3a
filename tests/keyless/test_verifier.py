"""The process that verifies keyless signatures, seen from outside: it is limited, and its failure is no result."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from boltseal.keyless.verifier import KeylessUnavailable, KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.policy.keyless_signers import CheckedBundle
from boltseal.policy.requirements import StoredEvidence
from boltseal.signatures.certificate_chains import Authorities
from boltseal.signatures.dsse import ENVELOPE
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.keyless_bundle import RefusedBundle, VerifiedBundle
from boltseal.signatures.notation_envelope import COSE, JWS
from boltseal.signatures.signed_image import CertificateIdentity, TimeSource
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.time_stamps import RefusedStamp, VerifiedStamp
from boltseal.signatures.trusted_root import TrustedRoot
from tests.signatures.notation_certificates import cose, jws, root
from tests.signatures.signers import Signer, encoded, statement
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority, pae
from tests.signatures.stamp_authority import StampAuthority

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
    refused, proven = results[checked(OTHER_ROOT, SIGNED)], results[checked(ROOT, SIGNED)]

    assert results.keys() == {checked(ROOT, SIGNED), checked(OTHER_ROOT, SIGNED)}
    assert isinstance(proven, VerifiedBundle)
    assert (proven.identity, proven.signed) == (
        CertificateIdentity((IDENTITY,), ISSUER),
        sha256(pae(PAYLOAD)).hexdigest(),
    )
    assert proven.time is not None
    assert proven.time.source == TimeSource.LOG
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
    refusal = f'{READY}; echo \'{{"refused": "not yet"}}\''
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


READY = 'cat > /dev/null; echo \'{"root_refused": ""}\''
"""A process that accepts every root."""
FAILURES = {
    "it dies": ("kill -9 $$", "ended with signal 9"),
    "it fails": ("exit 3", "ended with 3"),
    "it hangs": ("exec sleep 600", "did not answer within 1 s"),
    "it hangs later": (f"{READY}; exec sleep 600", "did not answer within 1 s"),
    "it says nothing": ("cat > /dev/null", "did not answer with results"),
    "it says something else": ("echo verified", "did not answer with results"),
    "more than results": ('echo \'{"root_refused": "", "trusted": true}\'', "did not answer with results"),
    "endless": ("exec cat /dev/zero", "a line of more than 262144 bytes"),
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
    verifier = KeylessVerifier(python=program(f'{READY}; echo \'{{"names": ["release@acme.example"]}}\''))
    results = await verifier.results([ROOT], stored(SIGNED))

    assert results[checked(ROOT, SIGNED)] == RefusedBundle("the process gave no reason")


ENDS = {
    "dies": ("kill -9 $$", "its process ended with signal 9"),
    "fails": ("exit 3", "its process ended with 3"),
    "ends": ("exit 0", "its process did not answer with results"),
    "stalls": ("exec sleep 600", "its process did not answer within 2 s"),
    "talks": ("echo verified", "its process did not answer with results"),
    "is endless": ("exec cat /dev/zero", "its process answered with a line of more than 262144 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "why"), ENDS.values(), ids=ENDS.keys())
async def test_a_process_that_fails_at_its_first_bundle_refuses_it(
    program: Callable[[str], str], lines: str, why: str
) -> None:
    """The process had read the root, so the bundle is the cause. It is no evidence, and never a pass."""
    verifier = KeylessVerifier(python=program(f"{READY}; {lines}"), stall_s=2)
    results = await verifier.results([ROOT], stored(SIGNED))

    assert results == {checked(ROOT, SIGNED): RefusedBundle(f"the bundle can't be verified: {why}")}


OTHERS = [encoded(AUTHORITY.bundle(encoded(statement(Digest.of(text))))) for text in (b"one", b"two")]
HOSTILE = {
    "kills": ("os.kill(os.getpid(), 9)", 0),
    "is the second": ("os.kill(os.getpid(), 9)", 1),
    "is the last": ("os.kill(os.getpid(), 9)", 2),
    "loops": ("sum(range(10**12))", 0),
    "sleeps": ("time.sleep(600)", 0),
    "uses the memory": ("bytearray(3 * 1024**3)", 0),
}


@pytest.mark.parametrize(("attack", "at"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_one_hostile_bundle_is_refused_and_the_others_are_verified(
    program: Callable[[str], str], tmp_path: Path, attack: str, at: int
) -> None:
    """Wherever it stands: as if the library had a defect that this bundle makes use of."""
    hostile = encoded(AUTHORITY.bundle(encoded(statement(Digest.of(b"hostile")))))
    bundles = [*OTHERS[:at], hostile, *OTHERS[at:]]
    code = (
        "import os, sys, time\n"
        "from boltseal.keyless import process\n"
        "process.BUNDLE_CPU_S = 1.0\n"
        "verify = process._verify\n"
        f"def with_a_defect(under, raw):\n    if raw == {hostile!r}:\n        {attack}\n    return verify(under, raw)\n"
        "process._verify = with_a_defect\n"
        "sys.exit(process.main())\n"
    )
    (tmp_path / "hostile.py").write_text(code)
    verifier = KeylessVerifier(
        python=program(f"exec {sys.executable} {tmp_path}/hostile.py"), stall_s=10, timeout_s=300
    )
    results = await verifier.results([ROOT], stored(*bundles))
    refused = results[checked(ROOT, hostile)]

    assert isinstance(refused, RefusedBundle)
    assert refused.why.startswith("the bundle can't be verified: its process ")
    assert all(isinstance(results[checked(ROOT, each)], VerifiedBundle) for each in OTHERS)
    assert len((tmp_path / "starts").read_text().splitlines()) == [2, 3, 2][at]


async def test_what_is_verified_before_the_time_is_over_counts(program: Callable[[str], str], tmp_path: Path) -> None:
    """The rest has no result, and the next call continues with it."""
    refusal = 'echo \'{"refused": "no"}\''
    lines = f"{READY}; {refusal}; [ -e {tmp_path}/again ] || exec sleep 600"
    verifier = KeylessVerifier(timeout_s=2, python=program(lines))
    first = await verifier.results([ROOT], stored(*OTHERS))
    (tmp_path / "again").touch()
    both = await verifier.results([ROOT], stored(*OTHERS))

    assert first == {checked(ROOT, OTHERS[0]): RefusedBundle("no")}
    assert both == {checked(ROOT, each): RefusedBundle("no") for each in OTHERS}


EXPIRED_AT = datetime.fromtimestamp(time.time(), UTC).replace(microsecond=0) - timedelta(days=1)
EARLIER = EXPIRED_AT - timedelta(days=100)
VALID: dict[str, Any] = {"begin": EARLIER, "end": EXPIRED_AT + timedelta(days=100)}


async def test_time_stamps_of_expired_signatures_are_verified(tmp_path: Path) -> None:
    """Time stamps of other signatures are not looked at; one that is no token is refused, and harms no other."""
    time_root = root("C=US, O=acme, CN=time root", **VALID)
    authority = StampAuthority.under(time_root, tmp_path / "time", **VALID)
    expired, valid = (root(**VALID).issue(begin=EARLIER, end=end) for end in (EXPIRED_AT, VALID["end"]))
    at = EXPIRED_AT - timedelta(days=1)
    good, other = (
        jws(each, b"payload", stamping=lambda signature: authority.stated(signature, at)) for each in (expired, valid)
    )
    bad = cose(expired, b"payload", stamping=lambda _: b"no token")
    layers = (
        EvidenceLayer(JWS, good),
        EvidenceLayer(JWS, other),
        EvidenceLayer(COSE, bad),
        EvidenceLayer(JWS, b"no JSON"),
    )
    trusted = Authorities.parse(time_root.pem)
    results = await KeylessVerifier().results([trusted], [StoredEvidence(Digest.of(b"signatures"), layers)])
    names = [CheckedBundle(trusted.fingerprint, sha256(raw).hexdigest()) for raw in (good, bad)]
    refused = results[names[1]]

    assert results.keys() == set(names)
    assert results[names[0]] == VerifiedStamp(at, timedelta(0), (authority.holder.chain[0], time_root.chain[0]))
    assert isinstance(refused, RefusedStamp)
    assert "not DER" in refused.why


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{}", "the process gave no reason"),
        ('{"at_us": 9000000000000000000, "certificates": ["AAAA"]}', "values that do not exist"),
        ('{"at_us": 1, "certificates": ["*"]}', "values that do not exist"),
        ('{"names": []}', "it can't be verified: its process did not answer with results"),
    ],
)
async def test_an_answer_about_a_time_stamp_that_proves_nothing_is_a_refusal(
    program: Callable[[str], str], line: str, why: str
) -> None:
    """Whatever a process that was taken over says."""
    expired = root(**VALID).issue(begin=EARLIER, end=EXPIRED_AT)
    raw = jws(expired, b"payload", stamping=lambda _: b"token")
    evidence = [StoredEvidence(Digest.of(raw), (EvidenceLayer(JWS, raw),))]
    trusted = Authorities.parse(expired.pem)
    results = await KeylessVerifier(python=program(f"{READY}; echo '{line}'")).results([trusted], evidence)
    (found,) = results.values()

    assert isinstance(found, RefusedStamp)
    assert why in found.why


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
