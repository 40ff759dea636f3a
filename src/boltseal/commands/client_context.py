"""The context of a client use case: settings, clock and notices, in place of the environment and a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.loading import deferred

if TYPE_CHECKING:
    from boltseal.client import credentials as logins
    from boltseal.client import registries_conf, registry_configuration
    from boltseal.client import state as client_state
    from boltseal.client.credentials import CredentialStore
    from boltseal.client.registry_configuration import RegistryConfiguration
    from boltseal.client.state import ClientState
    from boltseal.client.tag_proofs import TagProof
    from boltseal.config import ClientPaths
    from boltseal.engines import address as engine_addresses
    from boltseal.engines.address import EngineAddress
    from boltseal.project import settings as project_settings
    from boltseal.project.settings import ClientSettings
else:  # many commands need no registry
    engine_addresses = deferred("boltseal.engines.address")
    logins = deferred("boltseal.client.credentials")
    registries_conf = deferred("boltseal.client.registries_conf")
    registry_configuration = deferred("boltseal.client.registry_configuration")
    project_settings = deferred("boltseal.project.settings")
    client_state = deferred("boltseal.client.state")


@dataclass(frozen=True)
class ClientContext:
    """The user's files, the clock, and a receiver of notices.

    `now_us`: microseconds since 1970. `notice` is called with one line for a person, at once; it is not part of a result.
    `trace`: called with one line for each request to a registry, None to trace none. `proven`: called
    with the proof of each tag of a registry whose ledger is trusted. `engines_folder`: of engines' releases, None for one in
    the state folder.
    """

    paths: ClientPaths
    state_folder: Path
    now_us: Callable[[], int]
    notice: Callable[[str], None]
    trace: Callable[[str], None] | None = None
    proven: Callable[[TagProof], None] = lambda _: None
    engines_folder: Path | None = None

    @cached_property
    def settings(self) -> ClientSettings:
        """The user's own settings, read once. Raises: ProjectInvalid."""
        return project_settings.client_settings(self.paths.settings)

    def renewed(self) -> ClientContext:
        """Return this context without the settings that were read."""
        return replace(self)

    @property
    def state(self) -> ClientState:
        """The user's client state: trusted keys, checkpoints, observations and records of engines."""
        return client_state.ClientState(self.state_folder)

    @property
    def engines(self) -> Path:
        """Return the folder with a folder of releases for each engine."""
        return self.engines_folder or self.state_folder / "engines"

    def now_s(self) -> int:
        """Return the time in whole seconds since 1970."""
        return self.now_us() // 1_000_000

    def credentials(self, *, anonymous: bool) -> CredentialStore:
        """Return the user's registry logins; none if `anonymous`. Raises: ProjectInvalid: the settings file is invalid."""
        if anonymous:
            return logins.CredentialStore(())
        conf = registries_conf.RegistriesConf(self.paths.registries_conf)
        return logins.CredentialStore(self.paths.logins, self.settings.reached, conf)

    def registries(self) -> RegistryConfiguration:
        """Return how registries are reached, by the user's and other tools' files. Raises: ProjectInvalid."""
        conf = registries_conf.RegistriesConf(self.paths.registries_conf)
        return registry_configuration.RegistryConfiguration(
            self.settings.reached, self.paths.certificates, conf, self.notice
        )

    def engine_address(self, host: str | None = None) -> EngineAddress:
        """Return the address in `host`, else in DOCKER_HOST, else of Docker's socket. Raises: EngineAddressInvalid."""
        return engine_addresses.EngineAddress.parse(host or self.paths.docker_host, self.paths.docker_certificates)
