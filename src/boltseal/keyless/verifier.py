"""Verifies the keyless signatures of an image in a process of its own (`process`), before they are judged.

- One process verifies all bundles of an image that are not known yet, under one trusted root. At most PROCESSES run at once.
- A process that fails, does not end within a time limit or answers with anything but results is KeylessUnavailable: nothing is
  known then, and nothing is remembered.
- Results are remembered by the digests of bundle and trusted root. A proof never changes with time, since the time of the
  signature counts and not the present one. A refusal can: the root may have a log whose key is valid from tomorrow. So it is
  remembered for REFUSED_S seconds only.
"""

from __future__ import annotations

import asyncio
import math
import sys
from asyncio.subprocess import DEVNULL, PIPE
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

import boltseal
from boltseal.errors import Invalid, Unavailable
from boltseal.keyless.process import Answer, Request, Result
from boltseal.policy.keyless_signers import CheckedBundle, KeylessResults
from boltseal.policy.requirements import StoredEvidence
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.keyless_bundle import RefusedBundle, VerifiedBundle, unverified_payload
from boltseal.signatures.signed_image import CertificateIdentity
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.trusted_root import TrustedRoot

TIMEOUT_S: Final = 60.0
PROCESSES: Final = 2
REMEMBERED: Final = 4096
REFUSED_S: Final = 300.0
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Two hundred results with sixteen long names each are less."""

EXTRA: Final = "sigstore"
PROCESS: Final = "boltseal.keyless.process"


class KeylessUnavailable(Unavailable):
    """Keyless signatures could not be verified. Nothing is known about them, which is no refusal and never a pass."""


class KeylessNotInstalled(Invalid):
    """A keyless signature is required, and the extra that verifies it is not installed."""


def check_installed(roots: Iterable[TrustedRoot]) -> None:
    """Check that keyless signatures can be verified, if any trusted root is needed. Raises: KeylessNotInstalled."""
    if any(True for _ in roots) and find_spec(EXTRA) is None:
        raise KeylessNotInstalled(
            f"keyless signatures (identity, issuer) need the extra {EXTRA}: pip install 'boltseal[{EXTRA}]'"
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A result, and the time of the event loop's clock until which it is remembered."""

    result: VerifiedBundle | RefusedBundle
    until_s: float


class KeylessVerifier:
    """Verifies keyless signatures and remembers the results.

    `timeout_s`: how long a process may take. `python` and `module`: what it runs. `refused_s`: how long a refusal is remembered.
    `remembered`: how many results are, at most.
    """

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        python: str = sys.executable,
        module: str = PROCESS,
        refused_s: float = REFUSED_S,
        remembered: int = REMEMBERED,
    ) -> None:
        self._timeout_s = timeout_s
        self._command = (python, "-B", "-m", module)
        self._refused_s = refused_s
        self._remembered = remembered
        self._known: OrderedDict[CheckedBundle, _Remembered] = OrderedDict()
        self._slots = asyncio.Semaphore(PROCESSES)

    async def results(self, roots: Iterable[TrustedRoot], evidence: Sequence[StoredEvidence]) -> KeylessResults:
        """Return the results for all keyless signatures among the evidence, under each trusted root.

        Raises: KeylessUnavailable.
        """
        roots = tuple(roots)
        if not roots:
            return {}
        bundles = await asyncio.to_thread(_keyless_bundles, evidence)
        found: dict[CheckedBundle, VerifiedBundle | RefusedBundle] = {}
        for root in roots:
            found |= await self._under(root, bundles)
        return found

    async def _under(self, root: TrustedRoot, bundles: Mapping[str, bytes]) -> KeylessResults:
        names = {CheckedBundle(root.fingerprint, digest): raw for digest, raw in bundles.items()}
        found = {name: result for name in names if (result := self._recall(name)) is not None}
        unknown = {name: raw for name, raw in names.items() if name not in found}
        if unknown:
            results = await self._verify(root, list(unknown.values()))
            new = dict(zip(unknown, results, strict=True))
            self._remember(new)
            found |= new
        return found

    def _recall(self, name: CheckedBundle) -> VerifiedBundle | RefusedBundle | None:
        known = self._known.get(name)
        if known is None or known.until_s <= asyncio.get_running_loop().time():
            return None
        self._known.move_to_end(name)
        return known.result

    def _remember(self, results: Mapping[CheckedBundle, VerifiedBundle | RefusedBundle]) -> None:
        now_s = asyncio.get_running_loop().time()
        for name, result in results.items():
            until_s = now_s + self._refused_s if isinstance(result, RefusedBundle) else math.inf
            self._known[name] = _Remembered(result, until_s)
            self._known.move_to_end(name)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)

    async def _verify(self, root: TrustedRoot, bundles: Sequence[bytes]) -> list[VerifiedBundle | RefusedBundle]:
        request = Request(b64encode(root.raw).decode(), [b64encode(raw).decode() for raw in bundles])
        async with self._slots:
            raw = await self._answer(msgspec.json.encode(request))
        try:
            answer = msgspec.json.decode(raw, type=Answer)
        except msgspec.DecodeError as error:
            raise _unavailable("its process did not answer with results") from error
        if answer.root_refused:
            raise _unavailable(f"the trusted root can't be used: {answer.root_refused}")
        if len(answer.results) != len(bundles):
            raise _unavailable("its process answered about another number of signatures")
        return [_result(each) for each in answer.results]

    async def _answer(self, request: bytes) -> bytes:
        root = str(Path(boltseal.__file__).parents[1])
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                cwd="/",
                env={"PYTHONPATH": root, "LANG": "C.UTF-8"},
            )
        except OSError as error:  # no memory, no process, or an upgrade removed this Python
            raise _unavailable(f"{self._command[0]} can't be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                _, answer = await asyncio.gather(_send(process, request), _read(process))
                code = await process.wait()
        except TimeoutError as error:
            raise _unavailable(f"its process did not end within {self._timeout_s:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        if code:
            raise _unavailable(f"its process ended with {f'signal {-code}' if code < 0 else code}")
        return answer


async def _send(process: asyncio.subprocess.Process, request: bytes) -> None:
    assert process.stdin is not None  # noqa: S101  # it is a pipe
    try:
        process.stdin.write(request)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):  # it ended; its exit code says how
        return


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    answer = bytearray()
    while piece := await process.stdout.read(65_536):
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise _unavailable(f"its process answered with more than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)


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


def _result(result: Result) -> VerifiedBundle | RefusedBundle:
    if result.refused or not result.signed:
        return RefusedBundle(result.refused or "the process gave no reason")
    return VerifiedBundle(CertificateIdentity(result.names, result.issuer), result.signed)


def _unavailable(why: str) -> KeylessUnavailable:
    return KeylessUnavailable(f"keyless signatures could not be verified: {why}; try again")
