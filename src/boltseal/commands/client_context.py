"""The context of a client use case: settings, clock and notices, in place of the environment and a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where they are needed: many commands need no registry
    from boltseal.client.credentials import CredentialStore
    from boltseal.client.registry_configuration import RegistryConfiguration
    from boltseal.client.state import ClientState
    from boltseal.client.tag_proofs import TagProof
    from boltseal.config import ClientPaths
    from boltseal.engines.address import EngineAddress
    from boltseal.project.settings import ClientSettings


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
        from boltseal.project.settings import client_settings

        return client_settings(self.paths.settings)

    def renewed(self) -> ClientContext:
        """Return this context without the settings that were read."""
        return replace(self)

    @property
    def state(self) -> ClientState:
        """The user's client state: trusted keys, checkpoints, observations and records of engines."""
        from boltseal.client.state import ClientState

        return ClientState(self.state_folder)

    @property
    def engines(self) -> Path:
        """Return the folder with a folder of releases for each engine."""
        return self.engines_folder or self.state_folder / "engines"

    def now_s(self) -> int:
        """Return the time in whole seconds since 1970."""
        return self.now_us() // 1_000_000

    def credentials(self, *, anonymous: bool) -> CredentialStore:
        """Return the user's registry logins; none if `anonymous`. Raises: ProjectInvalid: the settings file is invalid."""
        from boltseal.client.credentials import CredentialStore
        from boltseal.client.registries_conf import RegistriesConf

        if anonymous:
            return CredentialStore(())
        return CredentialStore(self.paths.logins, self.settings.reached, RegistriesConf(self.paths.registries_conf))

    def registries(self) -> RegistryConfiguration:
        """Return how registries are reached, by the user's and other tools' files. Raises: ProjectInvalid."""
        from boltseal.client.registries_conf import RegistriesConf
        from boltseal.client.registry_configuration import RegistryConfiguration

        conf = RegistriesConf(self.paths.registries_conf)
        return RegistryConfiguration(self.settings.reached, self.paths.certificates, conf, self.notice)

    def engine_address(self, host: str | None = None) -> EngineAddress:
        """Return the address in `host`, else in DOCKER_HOST, else of Docker's socket. Raises: EngineAddressInvalid."""
        from boltseal.engines.address import EngineAddress

        return EngineAddress.parse(host or self.paths.docker_host, self.paths.docker_certificates)
