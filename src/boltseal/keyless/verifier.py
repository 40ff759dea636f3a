"""Verifies keyless signatures and time stamps of an image in a process of its own (`process`), before they are judged.

- One process verifies the bundles of an image that are not known yet, under one trusted root. At most PROCESSES run at once.
- A bundle that ends its process, or stalls it, is refused, if the process had accepted the root and this was its first bundle:
  then neither the machine nor another bundle is the cause. A new process verifies the bundles after it.
- A process that does not get so far, or whose root can't be used, is KeylessUnavailable: nothing is known then, and nothing
  is remembered. What is not verified when the time is over has no result.
- Results are remembered by the digests of bundle and trusted root. A proof never changes with time, since the time of the
  signature counts and not the present one. A refusal can: the root may have a log whose key is valid from tomorrow. So it is
  remembered for REFUSED_S seconds only.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import msgspec

import boltseal
from boltseal.errors import Invalid, Unavailable
from boltseal.keyless.process import BundleRequest, Result, RootResult, Stamp, StampRequest
from boltseal.keyless.stamps import StampResult
from boltseal.policy.keyless_signers import CheckedBundle, KeylessResult, KeylessResults
from boltseal.policy.requirements import StoredEvidence
from boltseal.signatures.certificate_chains import Authorities
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.keyless_bundle import RefusedBundle, VerifiedBundle, unverified_payload
from boltseal.signatures.notation import stamp_to_verify
from boltseal.signatures.notation_envelope import COSE, JWS, Envelope
from boltseal.signatures.signed_image import CertificateIdentity, SigningTime
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.time_stamps import RefusedStamp, VerifiedStamp
from boltseal.signatures.trusted_root import TrustedRoot

TIMEOUT_S: Final = 60.0
STALL_S: Final = 20.0
"""A bundle has a limit of processor time as well (`process`), so this is for a process that waits."""
PROCESSES: Final = 2
REMEMBERED: Final = 4096
REFUSED_S: Final = 300.0
MAX_LINE_BYTES: Final = 256 * 1024
"""A result with sixteen long names is less."""

_T = TypeVar("_T", bound=msgspec.Struct)

EXTRA: Final = "sigstore"
PROCESS: Final = "boltseal.keyless.process"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class KeylessUnavailable(Unavailable):
    """Keyless signatures could not be verified. Nothing is known about them, which is no refusal and never a pass."""


class KeylessNotInstalled(Invalid):
    """A keyless signature is required, and the extra that verifies it is not installed."""


def check_installed(roots: Iterable[TrustedRoot | Authorities]) -> None:
    """Check that keyless signatures and time stamps can be verified, if any are needed. Raises: KeylessNotInstalled."""
    for root in roots:
        what, library = (
            ("keyless signatures (identity, issuer)", "sigstore")
            if isinstance(root, TrustedRoot)
            else ("time stamps (tsa)", "rfc3161_client")
        )
        if find_spec(library) is None:
            raise KeylessNotInstalled(f"{what} need the extra {EXTRA}: pip install 'boltseal[{EXTRA}]'")


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A result, and the time of the event loop's clock until which it is remembered."""

    result: KeylessResult
    until_s: float


class _Bundles:
    """Keyless bundles of an image, which a process verifies under a trusted root."""

    kind = Result

    def __init__(self, root: TrustedRoot, evidence: Sequence[StoredEvidence]) -> None:
        self._root = root
        self.items = {CheckedBundle(root.fingerprint, name): raw for name, raw in _keyless_bundles(evidence).items()}

    def request(self, names: Iterable[CheckedBundle]) -> bytes:
        """Return what the process reads."""
        bundles = [_base64(self.items[name]) for name in names]
        return msgspec.json.encode(BundleRequest(_base64(self._root.raw), bundles))

    @staticmethod
    def result(line: Result | StampResult) -> KeylessResult:
        """Return what the process found out about one bundle."""
        if not isinstance(line, Result) or line.refused or not line.signed:
            return RefusedBundle(line.refused or "the process gave no reason")
        at = None if line.time is None else SigningTime(datetime.fromtimestamp(line.time, UTC), line.time_from)
        return VerifiedBundle(CertificateIdentity(line.names, line.issuer), line.signed, at)

    @staticmethod
    def ended(why: str) -> KeylessResult:
        """Return the result for a bundle that ended its process."""
        return RefusedBundle(f"the bundle can't be verified: {why}")


class _Stamps:
    """Time stamps of an image's signatures of Notation, which a process verifies under the certificates of authorities."""

    kind = StampResult

    def __init__(self, authorities: Authorities, evidence: Sequence[StoredEvidence], now_us: int) -> None:
        self._authorities = authorities
        self.items = {
            CheckedBundle(authorities.fingerprint, name): envelope
            for name, envelope in _stamped(evidence, now_us).items()
        }

    def request(self, names: Iterable[CheckedBundle]) -> bytes:
        """Return what the process reads."""
        envelopes = [self.items[name] for name in names]
        found = [Stamp(_base64(each.stamp), _base64(each.signature)) for each in envelopes]
        return msgspec.json.encode(StampRequest([_base64(each) for each in self._authorities.certificates], found))

    @staticmethod
    def result(line: Result | StampResult) -> KeylessResult:
        """Return what the process found out about one time stamp."""
        if not isinstance(line, StampResult) or line.refused or not line.certificates:
            return RefusedStamp(line.refused or "the process gave no reason")
        try:
            at, accuracy = _EPOCH + timedelta(microseconds=line.at_us), timedelta(microseconds=line.accuracy_us)
            certificates = tuple(b64decode(each, validate=True) for each in line.certificates)
        except (ValueError, OverflowError):
            return RefusedStamp("the process answered with values that do not exist")
        return VerifiedStamp(at, accuracy, certificates)

    @staticmethod
    def ended(why: str) -> KeylessResult:
        """Return the result for a time stamp that ended its process."""
        return RefusedStamp(f"it can't be verified: {why}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one process answered. `failed`: how it failed, "" if it did not. `late`: it failed because the time was over."""

    results: tuple[Result | StampResult, ...]
    failed: str = ""
    late: bool = False


class KeylessVerifier:
    """Verifies keyless signatures and time stamps, and remembers the results.

    `timeout_s`: how long an image may take under one root. `stall_s`: how long a process may take for one bundle. `python` and
    `module`: what it runs. `refused_s`: how long a refusal is remembered. `remembered`: how many results are, at most.
    """

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        python: str = sys.executable,
        module: str = PROCESS,
        refused_s: float = REFUSED_S,
        remembered: int = REMEMBERED,
        stall_s: float = STALL_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._command = (python, "-B", "-m", module)
        self._refused_s = refused_s
        self._remembered = remembered
        self._known: OrderedDict[CheckedBundle, _Remembered] = OrderedDict()
        self._slots = asyncio.Semaphore(PROCESSES)

    async def results(
        self, roots: Iterable[TrustedRoot | Authorities], evidence: Sequence[StoredEvidence]
    ) -> KeylessResults:
        """Return the results for the keyless signatures among the evidence, under each trusted root.

        Under authorities of time stamps (tsa): for the time stamps of signatures with an expired certificate.

        Those that were not verified in time are missing; the next call continues with them. Raises: KeylessUnavailable.
        """
        found: dict[CheckedBundle, KeylessResult] = {}
        for root in roots:
            if isinstance(root, TrustedRoot):
                work: _Bundles | _Stamps = await asyncio.to_thread(_Bundles, root, evidence)
            else:
                work = await asyncio.to_thread(_Stamps, root, evidence, time.time_ns() // 1000)
            found |= await self._under(work)
        return found

    async def _under(self, work: _Bundles | _Stamps) -> KeylessResults:
        found = {name: result for name in work.items if (result := self._recall(name)) is not None}
        unknown = [name for name in work.items if name not in found]
        if unknown:
            async with self._slots:
                found |= await self._verify(work, unknown)
        return found

    def _recall(self, name: CheckedBundle) -> KeylessResult | None:
        known = self._known.get(name)
        if known is None or known.until_s <= asyncio.get_running_loop().time():
            return None
        self._known.move_to_end(name)
        return known.result

    def _remember(self, results: KeylessResults) -> None:
        now_s = asyncio.get_running_loop().time()
        for name, result in results.items():
            until_s = now_s + self._refused_s if isinstance(result, RefusedBundle | RefusedStamp) else math.inf
            self._known[name] = _Remembered(result, until_s)
            self._known.move_to_end(name)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)

    async def _verify(self, work: _Bundles | _Stamps, unknown: Sequence[CheckedBundle]) -> KeylessResults:
        """Verify bundles in as many processes as it takes, until the time is over."""
        ends_s = asyncio.get_running_loop().time() + self._timeout_s
        found: dict[CheckedBundle, KeylessResult] = {}
        left = list(unknown)
        while left:
            try:
                answer = await self._answer(work, left, ends_s)
            except KeylessUnavailable:
                if found:
                    return found
                raise
            new = {name: work.result(line) for name, line in zip(left, answer.results, strict=False)}
            if answer.failed and not new and not answer.late:
                new = {left[0]: work.ended(answer.failed)}
            self._remember(new)
            found |= new
            left = [name for name in left if name not in new]
            if answer.late and not found:
                raise _unavailable(answer.failed)
            if answer.late:
                return found
        return found

    async def _answer(self, work: _Bundles | _Stamps, names: Sequence[CheckedBundle], ends_s: float) -> _Answer:
        """Start a process, and return its results. Raises: KeylessUnavailable: not even the root was read."""
        process = await self._started()
        sending = asyncio.create_task(_send(process, work.request(names)))
        try:
            await self._read_root(process, ends_s)
            return await self._read_results(process, work.kind, len(names), ends_s)
        finally:
            if process.returncode is None:
                process.kill()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await process.communicate()

    async def _started(self) -> asyncio.subprocess.Process:
        root = str(Path(boltseal.__file__).parents[1])
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                cwd="/",
                env={"PYTHONPATH": root, "LANG": "C.UTF-8"},
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:  # no memory, no process, or an upgrade removed this Python
            raise _unavailable(f"{self._command[0]} can't be run: {error.strerror}") from error

    async def _read_root(self, process: asyncio.subprocess.Process, ends_s: float) -> None:
        try:
            async with asyncio.timeout_at(ends_s):
                found = await _line(process, RootResult)
        except TimeoutError as error:
            raise _unavailable(f"its process did not answer within {self._timeout_s:g} s") from error
        except _ProcessFailed as error:
            raise _unavailable(str(error)) from error
        if found.root_refused:
            raise _unavailable(f"the trusted root can't be used: {found.root_refused}")

    async def _read_results(
        self, process: asyncio.subprocess.Process, kind: type[Result] | type[StampResult], count: int, ends_s: float
    ) -> _Answer:
        loop, results = asyncio.get_running_loop(), list[Result | StampResult]()
        while len(results) < count:
            stalled_s = loop.time() + self._stall_s
            try:
                async with asyncio.timeout_at(min(stalled_s, ends_s)):
                    results.append(await _line(process, kind))
            except TimeoutError:
                late = ends_s < stalled_s
                limit_s = self._timeout_s if late else self._stall_s
                return _Answer(tuple(results), f"its process did not answer within {limit_s:g} s", late)
            except _ProcessFailed as error:
                return _Answer(tuple(results), str(error))
        return _Answer(tuple(results))


class _ProcessFailed(Exception):
    """A process that ended, or did not answer with results."""


async def _line(process: asyncio.subprocess.Process, kind: type[_T]) -> _T:
    """Read one line of the answer. Raises: _ProcessFailed."""
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    try:
        line = await process.stdout.readline()
    except ValueError as error:
        raise _ProcessFailed(f"its process answered with a line of more than {MAX_LINE_BYTES} bytes") from error
    if not line.endswith(b"\n"):
        code = await process.wait()
        if code:
            raise _ProcessFailed(f"its process ended with {f'signal {-code}' if code < 0 else code}")
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError as error:
        raise _ProcessFailed("its process did not answer with results") from error


async def _send(process: asyncio.subprocess.Process, request: bytes) -> None:
    assert process.stdin is not None  # noqa: S101  # it is a pipe
    try:
        process.stdin.write(request)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):  # it ended; its exit code says how
        return


def _keyless_bundles(evidence: Sequence[StoredEvidence]) -> dict[str, bytes]:
    """Return the bundles that an identity may have signed, by their sha256."""
    found: dict[str, bytes] = {}
    for stored in evidence:
        for layer in stored.layers:
            if layer.media_type != BUNDLE:
                continue
            try:
                unverified_payload(layer.raw)
            except SignatureInvalid:
                continue
            found[sha256(layer.raw).hexdigest()] = layer.raw
    return found


def _stamped(evidence: Sequence[StoredEvidence], now_us: int) -> dict[str, Envelope]:
    """Return the envelopes of Notation whose time stamps decide about them, by their sha256."""
    found: dict[str, Envelope] = {}
    for stored in evidence:
        for layer in stored.layers:
            if (
                layer.media_type in (JWS, COSE)
                and (envelope := stamp_to_verify(layer.media_type, layer.raw, now_us)) is not None
            ):
                found[sha256(layer.raw).hexdigest()] = envelope
    return found


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _unavailable(why: str) -> KeylessUnavailable:
    return KeylessUnavailable(f"keyless signatures could not be verified: {why}; try again")
