"""`python -m bench.walks`: how many files and functions of boltseal four typical requests pass through.

    push      PUT of the manifest of a new sealed tag
    lock      `boltseal lock` of a Compose file with one image
    scrub     `boltseal scrub` of a Docker store with one image of one layer
    mirror    GET of a tag that the pull-through cache does not have yet

A walk is the sequence of calls of boltseal's own functions, in all threads of the request. Counted are the distinct files,
the distinct functions, and the returns: how often the walk enters a file that it had left before. Not counted are a
coroutine that is resumed, conversions to text (`__str__`), lambdas, comprehensions, and the import of modules: everything
runs once before it is counted. Threads that work beside the request (signing and its reads) are left out.

`--list WALK` prints the functions of a walk in the order of their first call, and the files most often returned to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dis
import io
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import boltseal
from tests import images
from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.host.scrub.made_stores import DockerStore
from tests.server.mirror.mirrors import NAME, mirroring
from tests.serving import serving

SOURCE = f"{Path(boltseal.__file__).parent}/"
TIMES = 4
BESIDE = ("boltseal-sign", "boltseal-read", "boltseal-notify")


@cache
def _start_of(code: CodeType) -> int:
    """Return the offset of the instruction at which a call begins; that of a resumed coroutine is after it."""
    return next(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")


class Call(NamedTuple):
    """One call: the file, relative to the package, and the function's qualified name."""

    file: str
    function: str


@dataclass
class Tracer:
    """Records calls while `recording`. `shortest`: of the recorded walks, the one with the fewest returns."""

    recording: bool = False
    calls: list[Call] = field(default_factory=list)
    shortest: list[Call] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not self.recording or event != "call" or not code.co_filename.startswith(SOURCE):
            return
        if frame.f_lasti > _start_of(code) or threading.current_thread().name.startswith(BESIDE):
            return
        if code.co_name == "__str__" or "<" in code.co_qualname.replace("<locals>", ""):
            return
        self.calls.append(Call(code.co_filename.removeprefix(SOURCE), code.co_qualname))

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the calls in the block as one walk."""
        self.calls.clear()
        sys.setprofile(self)
        self.recording = True
        try:
            yield
        finally:
            self.recording = False
            sys.setprofile(None)
        if not self.shortest or returns_in(self.calls).total() < returns_in(self.shortest).total():
            self.shortest = self.calls.copy()


def returns_in(calls: Sequence[Call]) -> Counter[str]:
    """Return how often each file was entered again after the walk had left it."""
    counted: Counter[str] = Counter()
    left, last = set[str](), ""
    for call in calls:
        if call.file != last:
            counted[call.file] += call.file in left
            left.add(last)
            last = call.file
    return counted


async def push(tracer: Tracer, folder: Path) -> None:
    """PUT a new sealed tag whose blobs are stored."""
    async with serving(folder / "data") as registry:
        for number in range(TIMES):
            document = images.image(f"image {number}")
            await images.push_parts(registry.client, "shop/app", document)
            await asyncio.sleep(0.5)  # the signer is done with the tag before
            headers = {"content-type": document.media_type}
            path = f"/v2/shop/app/manifests/1.4.{number}"
            with tracer.record():
                answer = await registry.client.put(path, content=document.raw, headers=headers)
            assert answer.status_code == 201, answer.text


async def mirror(tracer: Tracer, folder: Path) -> None:
    """GET a tag that only the upstream has."""
    async with FakeUpstream().listening() as upstream, mirroring(folder / "data", upstream) as registry:
        for number in range(TIMES):
            upstream.publish(f"shop/app{number}", "1.4.2", images.image(f"image {number}"))
            await asyncio.sleep(0.5)
            with tracer.record():
                answer = await registry.client.get(f"/v2/{NAME}/shop/app{number}/manifests/1.4.2")
            assert answer.status_code == 200, answer.text


async def lock(tracer: Tracer, folder: Path) -> None:
    """Run `boltseal lock` on a Compose file with one image, with a registry that answers."""
    with FakeUpstream().listening_in_thread() as upstream:
        upstream.publish("shop/app", "1.4.2", images.image("image"))
        for number in range(TIMES):
            project = folder / f"project{number}"
            project.mkdir()
            text = f"services:\n  web:\n    image: {upstream.authority}/shop/app:1.4.2\n"
            (project / "compose.yaml").write_text(text)
            await asyncio.to_thread(_command, tracer, "lock", "--project", str(project))


async def scrub(tracer: Tracer, folder: Path) -> None:
    """Run `boltseal scrub` on one layer."""
    store = DockerStore.at(folder)
    store.image("shop/app:1.4.2", {"etc/app.conf": b"port = 80\n"})
    for _ in range(TIMES):
        await asyncio.to_thread(_command, tracer, "scrub", "--root", str(store.root))


def _command(tracer: Tracer, *arguments: str) -> None:
    with tracer.record(), contextlib.redirect_stderr(io.StringIO()):
        done = program.call(*arguments)
    assert done.code == 0, done


WALKS: dict[str, Callable[[Tracer, Path], Coroutine[Any, Any, None]]] = {
    "push": push,
    "lock": lock,
    "scrub": scrub,
    "mirror": mirror,
}


def main() -> int:
    """Record the walks and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.walks", description=__doc__)
    parser.add_argument("--list", choices=WALKS, help="print the functions of one walk")
    listed = parser.parse_args().list
    print("| walk | files | functions | returns |\n| --- | ---: | ---: | ---: |")
    for name in [listed] if listed else WALKS:
        tracer = Tracer()
        threading.setprofile(tracer)
        with tempfile.TemporaryDirectory(prefix="bench-walks-") as folder:
            asyncio.run(WALKS[name](tracer, Path(folder)))
        calls, returns = tracer.shortest, returns_in(tracer.shortest)
        print(f"| {name} | {len({each.file for each in calls})} | {len(set(calls))} | {returns.total()} |")
        if listed:
            _print(calls, returns)
    return 0


def _print(calls: Sequence[Call], returns: Counter[str]) -> None:
    counted = Counter(calls)
    for call in dict.fromkeys(calls):
        print(f"{counted[call]:5} {call.file} {call.function}")
    for file, count in returns.most_common(30):
        print(f"returns {count:4} {file}")


if __name__ == "__main__":
    sys.exit(main())
