"""An in-memory Docker Compose for the in-memory engine: what boltseal uses of it, by Compose's rules for containers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from boltseal.deploy.compose_program import Compose, ComposeFailed, Progress, ProjectFiles, RecordedProject, Recreate
from boltseal.deploy.health import CONFIG_HASH, DEPENDS_ON, NUMBER, PROJECT, SERVICE, WORKING_DIR
from boltseal.deploy.start_order import dependencies
from tests.fakes.engine import FakeEngine
from tests.images import digest_of

_HASHED_OUT = ("build", "pull_policy", "scale")


class MemoryCompose(Compose):
    """Compose on a `FakeEngine`. `called` is called before each change, and may raise as a killed process ends."""

    fake: FakeEngine
    called: Callable[[str], None]

    @classmethod
    def of(cls, fake: FakeEngine, called: Callable[[str], None]) -> MemoryCompose:
        """Return a Compose for this engine."""
        made = cls(("compose",), {}, {})
        object.__setattr__(made, "fake", fake)
        object.__setattr__(made, "called", called)
        return made

    async def read(self, project: ProjectFiles, services: Sequence[str] = (), extra: Sequence[Path] = ()) -> bytes:
        """Return the project's file, which is resolved already."""
        return project.files[0].read_bytes()

    async def hashes(self, recorded: RecordedProject) -> dict[str, str]:
        """Return each service's hash."""
        return {name: config_hash(each) for name, each in _document(recorded)["services"].items()}

    async def create(
        self,
        recorded: RecordedProject,
        services: Sequence[str],
        progress: Progress,
        *,
        how: Recreate = Recreate.CHANGED,
        scale: Mapping[str, int] | None = None,
    ) -> None:
        """Create the containers of services and of what they depend on."""
        document = _document(recorded)
        named = set(services)
        for name in sorted(named | {each for one in named for each in dependencies(document, one)}):
            self.called(f"create {name}")
            policy = how if name in named or how is Recreate.NEVER else Recreate.CHANGED
            wanted = (scale or {}).get(name, document["services"][name].get("scale", 1))
            self._converge(recorded, document, name, policy, wanted)

    def _converge(
        self, recorded: RecordedProject, document: Mapping[str, Any], name: str, how: Recreate, wanted: int
    ) -> None:
        service = document["services"][name]
        image = self.fake.find(service["image"])
        if image is None:
            raise ComposeFailed(f"no such image: {service['image']}")
        found = self.containers(recorded.name, name)
        for each in found[:wanted]:
            labels = each["Config"]["Labels"]
            changed = labels[CONFIG_HASH] != config_hash(service) or each["Image"] != image["Id"]
            if how is Recreate.ALL or (how is Recreate.CHANGED and changed):
                del self.fake.containers[each["Id"]]
                self._create(recorded, service, name, int(labels[NUMBER]))
        for each in found[wanted:]:
            del self.fake.containers[each["Id"]]
        next_number = max((int(each["Config"]["Labels"][NUMBER]) for each in found), default=0) + 1
        for number in range(next_number, next_number + wanted - len(found)):
            self._create(recorded, service, name, number)

    def _create(self, recorded: RecordedProject, service: Mapping[str, Any], name: str, number: int) -> None:
        image = self.fake.find(service["image"])
        assert image is not None
        labels = {
            PROJECT: recorded.name,
            SERVICE: name,
            CONFIG_HASH: config_hash(service),
            NUMBER: str(number),
            WORKING_DIR: str(recorded.directory),
            DEPENDS_ON: ",".join(f"{each}:service_started:false" for each in service.get("depends_on") or ()),
        }
        self.fake.create(f"{recorded.name}-{name}-{number}", service["image"], image["Id"], {"Labels": labels})

    async def up(
        self, recorded: RecordedProject, services: Sequence[str], *, timeout_s: float, progress: Progress
    ) -> None:
        """Create and start services and what they depend on."""
        await self.create(recorded, services, progress)
        await self.start(recorded, services, timeout_s=timeout_s, progress=progress)

    async def start(
        self, recorded: RecordedProject, services: Sequence[str], *, timeout_s: float, progress: Progress
    ) -> None:
        """Start the stopped containers of services and of what they depend on."""
        document = _document(recorded)
        names = set(services) | {each for one in services for each in dependencies(document, one)}
        for name in sorted(names, key=lambda each: len(dependencies(document, each))):
            for container in self.containers(recorded.name, name):
                if container["State"]["Status"] != "running":
                    self.called(f"start {name}")
                    self.fake.start(container["Id"])

    def containers(self, project: str, service: str) -> list[dict[str, Any]]:
        """Return the containers of a service, the lowest number first."""
        wanted = {PROJECT: project, SERVICE: service}
        found = [
            each
            for each in self.fake.containers.values()
            if all(each["Config"]["Labels"].get(key) == value for key, value in wanted.items())
        ]
        return sorted(found, key=lambda each: int(each["Config"]["Labels"][NUMBER]))


def config_hash(service: Mapping[str, Any]) -> str:
    """Return the hash of a service's configuration."""
    kept = {key: each for key, each in service.items() if key not in _HASHED_OUT}
    return digest_of(json.dumps(kept, sort_keys=True).encode()).removeprefix("sha256:")


def _document(recorded: RecordedProject) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(recorded.file.read_bytes())
    return found
