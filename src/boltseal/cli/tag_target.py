"""Options of the commands that work on a data folder, or with `--server` over the admin API of a registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from boltseal.cli.loading import load_module
from boltseal.cli.options import ConfigOption, DataOption
from boltseal.cli.parameters import CommandFunction, expanded
from boltseal.cli.registry_arguments import REGISTRY_OPTIONS, RegistryArguments
from boltseal.cli.remote import registry_options
from boltseal.commands.api_tokens import TokenChanges
from boltseal.commands.collection import GarbageCollection
from boltseal.commands.expiry import TagExpiry
from boltseal.commands.registry_collection import RegistryCollection
from boltseal.commands.registry_expiry import RegistryExpiry
from boltseal.commands.registry_rules import RegistryRules
from boltseal.commands.registry_tags import RegistryTags, registry_of
from boltseal.commands.registry_tokens import RegistryTokens
from boltseal.commands.registry_users import RegistryUsers
from boltseal.commands.rules import RuleReads
from boltseal.commands.tag_changes import TagChanges
from boltseal.commands.users import UserChanges
from boltseal.errors import Invalid

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST",
        show_default=False,
        help="Over the admin API of this registry, with the login for it; else on the data folder.",
    ),
]

_OPTIONS: Final = {
    "server": (ServerOption, None),
    **REGISTRY_OPTIONS,
    "config": (ConfigOption, None),
    "data": (DataOption, None),
}
_WITHOUT_DATA: Final = {name: declared for name, declared in _OPTIONS.items() if name != "data"}


@dataclass(frozen=True, slots=True)
class TagTarget:
    """Where a command works. Its methods are called inside the command, where their errors are printed."""

    server: str | None
    access: RegistryArguments
    config: Path | None
    data: Path | None

    def changes(self, command: str) -> TagChanges:
        """Return the use cases of tags on the registry, or on the data folder. Raises: Invalid: the options contradict each other."""
        server = self._server()
        if server is not None:
            return RegistryTags(registry_options(self.access), server)
        found: TagChanges = self._local("boltseal.server.commands.local_tags", "LocalTags", command)
        return found

    def tokens(self, command: str) -> TokenChanges:
        """Return the use cases of API tokens, as `changes` does. Raises: Invalid."""
        server = self._server()
        if server is not None:
            return RegistryTokens(registry_options(self.access), server)
        found: TokenChanges = self._local("boltseal.server.commands.local_tokens", "LocalTokens", command)
        return found

    def rules(self, command: str) -> RuleReads:
        """Return the use cases of rules, as `changes` does. Raises: Invalid."""
        server = self._server()
        if server is not None:
            return RegistryRules(registry_options(self.access), server)
        found: RuleReads = self._local("boltseal.server.commands.local_rules", "LocalRules", command)
        return found

    def users(self, command: str) -> UserChanges:
        """Return the use cases of users, as `changes` does. Raises: Invalid."""
        server = self._server()
        if server is not None:
            return RegistryUsers(registry_options(self.access), server)
        found: UserChanges = self._local("boltseal.server.commands.users", "LocalUsers", command)
        return found

    def expiry(self, command: str) -> TagExpiry:
        """Return the use case of overdue tags, as `changes` does. Raises: Invalid."""
        server = self._server()
        if server is not None:
            return RegistryExpiry(registry_options(self.access), server)
        found: TagExpiry = self._local("boltseal.server.commands.expiry", "LocalExpiry", command)
        return found

    def collection(self, command: str) -> GarbageCollection:
        """Return the use case of garbage collection, as `changes` does. Raises: Invalid."""
        server = self._server()
        if server is not None:
            return RegistryCollection(registry_options(self.access), server)
        found: GarbageCollection = self._local("boltseal.server.commands.collection", "LocalCollection", command)
        return found

    @property
    def given(self) -> bool:
        """Whether any of the options was given."""
        return bool(self.server or self.config or self.data) or self.access != RegistryArguments()

    def _server(self) -> str | None:
        """Return the registry that was named, None for the data folder. Raises: Invalid: the options contradict each other."""
        if self.server is None:
            if self.access != RegistryArguments():
                raise Invalid("options of a connection are given, but no registry; name it with --server")
            return None
        if self.config or self.data:
            raise Invalid("--server and a data folder (--config, --data) exclude each other; give one of them")
        return registry_of(self.server)

    def _local(self, module: str, name: str, command: str) -> Any:
        # A client that names a registry needs nothing of the server.
        options = load_module("boltseal.cli.server_options", command=command, extra="server")
        use_cases = load_module(module, command=command, extra="server")
        return getattr(use_cases, name)(options.store_settings(self.config, self.data))


def takes_tag_target(function: CommandFunction) -> CommandFunction:
    """Declare the options that choose a registry or a data folder; the command gets them as `target`."""
    return expanded(function, _OPTIONS, _target, replace="target")


def takes_settings_target(function: CommandFunction) -> CommandFunction:
    """Declare the options that choose a registry or a configuration; the command gets them as `target`."""
    return expanded(function, _WITHOUT_DATA, _target, replace="target")


def _target(
    *, server: str | None, config: Path | None, data: Path | None = None, **access: Any
) -> dict[str, TagTarget]:
    return {"target": TagTarget(server, RegistryArguments(**access), config, data)}
