"""Records containers of a project that run without a release, and creates them again from that record: see `running_snapshot`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from boltseal.deploy.health import CONFIG_HASH, WORKING_DIR, service_of
from boltseal.deploy.health_wait import ProjectHealth
from boltseal.deploy.releases import (
    Release,
    ReleaseContents,
    ReleasedService,
    ReleaseEnd,
    ReleaseKind,
    ReleaseStep,
    ServiceState,
)
from boltseal.deploy.running_snapshot import (
    RECIPES,
    SECRETS_FOLDER,
    Document,
    dependency_order,
    matches,
    mounted_paths,
    network_request,
    networks_of,
    recipe,
    recipes_of,
    recorded_networks,
    request_body,
    value_paths,
)
from boltseal.deploy.settings_files import MAX_ALL_BYTES
from boltseal.engines.api import NoSuchImage
from boltseal.engines.container_control import ContainerControl
from boltseal.engines.container_files import ContainerFile, read_files, write_files
from boltseal.engines.inventory import EngineContainer, EngineImage, State
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class FoundRelease:
    """The running containers of a project, as a release: its first record, and its contents."""

    release: Release
    contents: ReleaseContents


def differs_from(releases: Sequence[Release], last: Release | None, containers: Sequence[EngineContainer]) -> bool:
    """Return whether containers run that neither the running release nor a failed or unfinished one created.

    `releases`: those after `last`, whose containers may still exist.
    """
    known = {
        (each.name, each.config_hash, each.image_id)
        for release in (*releases, *(() if last is None else (last,)))
        for each in release.services
    }
    return any(
        (service_of(each), each.labels.get(CONFIG_HASH, ""), str(each.image)) not in known
        for each in containers
        if each.running and service_of(each)
    )


async def take_snapshot(
    control: ContainerControl,
    health: ProjectHealth,
    number: int,
    previous: int | None,
    now_us: int,
    values: Document,
) -> FoundRelease:
    """Return the containers of the project that run now, as a release.

    `values`: a text of the project, which says where Compose copied values of variables into containers. Services whose
    containers have all exited with 0 are recorded as completed jobs; other stopped ones are left out.
    """
    services: dict[str, list[EngineContainer]] = {}
    for each in await health.containers():
        if each.image is not None and service_of(each):
            services.setdefault(service_of(each), []).append(each)
    running = {name: [each for each in found if _at_work(each)] for name, found in services.items()}
    running = {name: found for name, found in running.items() if found}
    done = {name: found for name, found in services.items() if name not in running and all(map(_completed, found))}
    documents = await control.documents(each.id for found in running.values() for each in found)
    recipes: dict[str, list[dict[str, Any]]] = {}
    outside: list[str] = []
    for name, found in running.items():
        paths, known = value_paths(values, name), [each for each in found if each.id in documents]
        recipes[name] = [
            await _with_files(control, recipe(documents[each.id]), documents[each.id], paths, outside) for each in known
        ]
    networks = {}
    for network in sorted(networks_of(each for found in recipes.values() for each in found)):
        if (reported := await control.network(network)) is not None:
            networks[network] = network_request(reported)
    images = await _images(control, [found[0] for found in (*running.values(), *done.values())])
    recorded = [
        _service(name, found, images[found[0].image], completed=name in done)
        for name, found in sorted({**running, **done}.items())
        if found[0].image is not None
    ]
    folders = [label for found in running.values() for each in found if (label := each.labels.get(WORKING_DIR))]
    release = Release(
        project=health.project,
        number=number,
        kind=ReleaseKind.FOUND,
        directory=folders[0] if folders else "/",
        started_us=now_us,
        who="",
        previous=previous,
        step=ReleaseStep.ENDED,
        end=ReleaseEnd.HEALTHY,
        ended_us=now_us,
        services=tuple(recorded),
        before=tuple(sorted(documents)),
    )
    text = {
        "name": health.project,
        "services": {each.name: {"image": each.started_as} for each in recorded},
        RECIPES: {"services": recipes, "networks": networks},
    }
    raw = json.dumps(text, indent=1, sort_keys=True).encode() + b"\n"
    return FoundRelease(release, ReleaseContents(raw, outside=tuple(dict.fromkeys(outside))))


async def _with_files(
    control: ContainerControl, made: dict[str, Any], document: Document, paths: Collection[str], outside: list[str]
) -> dict[str, Any]:
    """Return a recipe with the files that Compose copied into its container. `outside`: receives what is too large."""
    mounts, files, size = mounted_paths(document), [], 0
    for path in sorted({SECRETS_FOLDER, *(each for each in paths if not each.startswith(f"{SECRETS_FOLDER}/"))}):
        for each in await read_files(control.engine, made["id"], path):
            if any(PurePosixPath(each.path).is_relative_to(mount) for mount in mounts):
                continue
            size += len(each.content or b"")
            if each.content is None or size > MAX_ALL_BYTES:
                outside.append(f"{made['name']}: {each.shown_path}: too large")
                continue
            content = base64.b64encode(each.content).decode()
            files.append({"path": each.path, "content": content, "mode": each.mode, "uid": each.uid, "gid": each.gid})
    return {**made, "files": files} if files else made


def _files(made: Document) -> list[ContainerFile]:
    """Return the files of a recipe."""
    return [
        ContainerFile(each["path"], base64.b64decode(each["content"]), each["mode"], each["uid"], each["gid"])
        for each in made.get("files") or ()
    ]


def _at_work(container: EngineContainer) -> bool:
    return container.state in (State.RUNNING, State.PAUSED, State.RESTARTING)


def _completed(container: EngineContainer) -> bool:
    return container.state is State.EXITED and container.exit_code == 0


async def _images(control: ContainerControl, containers: Sequence[EngineContainer]) -> dict[Digest | None, EngineImage]:
    found: dict[Digest | None, EngineImage] = {}
    for each in containers:
        if each.image is not None and each.image not in found:
            try:
                found[each.image] = await control.engine.image(each.image)
            except NoSuchImage:  # a prune removed it, and its container still runs
                found[each.image] = EngineImage(each.image)
    return found


def _service(
    name: str, containers: Sequence[EngineContainer], image: EngineImage, *, completed: bool
) -> ReleasedService:
    first = containers[0]
    named = _name(first, image)
    digest = next((each.digest for each in image.pulled_as if each.name == named.name and each.digest), named.digest)
    return ReleasedService(
        name=name,
        image=named.by_tag.familiar(),
        digest="" if digest is None else str(digest),
        image_id=str(image.id),
        started_as=first.started_as,
        config_hash=first.labels.get(CONFIG_HASH, ""),
        containers=0 if completed else len(containers),
        state=ServiceState.COMPLETED if completed else ServiceState.HEALTHY,
        labels=dict(sorted(image.labels.items())),
    )


def _name(container: EngineContainer, image: EngineImage) -> Reference:
    """Return the image's name: as the container was created, else a tag of it, else one that is made of its ID."""
    try:
        return Reference.parse(container.started_as)
    except BoltsealError:  # it was created by the image's ID
        return next(iter(image.names), Reference.parse(f"unnamed:{image.id.hex[:12]}"))


@dataclass(frozen=True, slots=True)
class SnapshotStart:
    """Creates and starts recorded containers of a release. `document`: its text."""

    control: ContainerControl
    health: ProjectHealth
    document: Mapping[str, Any]
    release: Release
    progress: Callable[[str], None]

    async def run(self, names: Collection[str]) -> None:
        """Make these services run as recorded; containers that are as recorded are left alone."""
        recipes = {name: each for name, each in recipes_of(self.document).items() if name in names}
        if not recipes:
            return
        for network in recorded_networks(self.document):
            if await self.control.network(str(network["Name"])) is None:
                await self.control.create_network(network)
        ids: dict[str, str] = {}
        for name in dependency_order(recipes):
            ids |= await self._start_service(name, recipes[name], ids)

    async def _start_service(self, name: str, recipes: Sequence[Document], ids: Mapping[str, str]) -> dict[str, str]:
        """Return the new IDs of recreated containers, by their former IDs."""
        containers = [each for each in await self.health.containers() if service_of(each) == name]
        own, service = [each.id for each in containers], self.release.service(name)
        of_image = {each.id for each in containers if service is None or str(each.image) == service.image_id}
        documents = await self.control.documents(own)
        kept = {
            each["id"]: id_
            for each in recipes
            for id_, document in documents.items()
            if id_ in of_image and self._kept(each, document, ids)
        }
        await asyncio.gather(*(self.control.remove(id_) for id_ in own if id_ not in kept.values()))
        made = dict(kept)
        # A killed process may not have written the files of a container that was never started.
        new = {each.id for each in containers if each.state is State.CREATED}
        for each in recipes:
            if each["id"] not in made:
                self.progress(f"creating {each['name']} as it ran before")
                body = request_body(each, await self._image(name, each), ids)
                made[each["id"]] = await self.control.create(each["name"], body, each["networks"])
                new.add(made[each["id"]])
            if (files := _files(each)) and made[each["id"]] in new:
                await write_files(self.control.engine, made[each["id"]], files)
            await self.control.start(made[each["id"]])
        return made

    async def _image(self, name: str, recipe_: Document) -> str:
        """Return the name by which the engine has the image: the one that was used, if it is still on this image."""
        service = self.release.service(name)
        written = str(recipe_["body"].get("Image") or "")
        if service is None:
            return written
        try:
            found = await self.control.engine.image(Reference.parse(written))
        except BoltsealError:  # it is an ID, or the name is gone
            return service.image_id if written.startswith("sha256:") else service.started_as
        return written if str(found.id) == service.image_id else service.started_as

    @staticmethod
    def _kept(recipe_: Document, document: Document, ids: Mapping[str, str]) -> bool:
        """Return whether a container can stay: it is as recorded, and so are those whose namespaces it uses."""
        text = json.dumps(document.get("HostConfig") or {})
        return matches(recipe_, document) and not any(old in text for old, new in ids.items() if old != new)
