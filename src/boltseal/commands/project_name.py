"""Decide which project a command is about that names none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from boltseal.commands.client_context import ClientContext
from boltseal.commands.deploy import project_files, read_files
from boltseal.commands.engine_releases import known_folders, refreshed
from boltseal.deploy.compose_program import ComposeRefused, ProjectFiles
from boltseal.deploy.project_files import NoProject
from boltseal.deploy.release_store import NoSuchRelease
from boltseal.errors import Invalid


def project_name(name: str | None, client: ClientContext) -> str:
    """Return the project name: `name`, else that of the Compose files here, else the only project with releases.

    Raises: Invalid: several projects have releases; NoSuchRelease, ComposeRefused; Unavailable: the default engine can't be asked.
    """
    if name is not None:
        return name
    try:
        named = project_files(None, None, None, None, None)
    except NoProject:
        pass
    else:
        return asyncio.run(_name_of(client, named))
    found = sorted({each.project for each in known_folders(client)})
    if not found:
        unread = refreshed(client).unread
        found = sorted({each.project for each in known_folders(client)})
        if not found and unread is not None:
            raise unread
    if not found:
        raise NoSuchRelease("there are no releases on this host yet; `boltseal deploy` makes the first")
    if len(found) > 1:
        raise Invalid(f"several projects have releases here: {', '.join(found[:20])}; name one with --project")
    return found[0]


async def _name_of(client: ClientContext, named: ProjectFiles) -> str:
    """Return the name of the project of these files, with all profiles enabled. Raises: ComposeRefused."""
    try:
        _, read = await read_files(client, None, replace(named, profiles=("*",)), ())
    except Invalid as error:
        raise ComposeRefused(
            f"{error.message}; recorded releases do not need the files: name the project with --project"
        ) from error
    return read.model.project
