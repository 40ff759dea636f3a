"""How each registry is reached, from the files of the user and of other tools: certificates, plain HTTP.

Order for one registry:

1. `[[client.registry]]` of the user's settings file. Its `ca_file` replaces the search in `certs.d`.
2. The first folder `certs.d/HOST[:PORT]` of containers and docker (see `certificates`).
3. `insecure = true` in registries.conf (see `registries_conf`), only if the registry does not speak TLS.

Files are read when a registry is asked for the first time, and registries.conf only if it could matter: a mistake in the
settings of a registry that is not asked is no error here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from boltseal.client.certificates import RegistryCertificates, find_certificates
from boltseal.client.registries_conf import RegistriesConf
from boltseal.client.registry_settings import RegistrySettings


class RegistryConfiguration:
    """The configuration of registries. `certificates`: folders `certs.d`, by precedence.

    `notice` is called with one line for a person when a registry is asked without TLS because of registries.conf.
    """

    def __init__(
        self,
        settings: Sequence[RegistrySettings] = (),
        certificates: Sequence[Path] = (),
        registries_conf: RegistriesConf | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = {one.host: one for one in settings}
        self._folders = tuple(certificates)
        self._registries_conf = registries_conf or RegistriesConf(None)
        self._notice = notice
        self._found: dict[str, RegistryCertificates] = {}

    def plain_http(self, registry: str) -> bool:
        """Return whether the user's settings say that a registry has no TLS."""
        settings = self._settings.get(registry.lower())
        return settings is not None and settings.plain_http

    def certificates(self, registry: str) -> RegistryCertificates:
        """Return the certificates of a registry. Raises: FileUnusable, ClientCertificateInvalid."""
        if registry not in self._found:
            settings = self._settings.get(registry.lower())
            if settings is not None and settings.ca_file is not None:
                self._found[registry] = RegistryCertificates(ca_file=settings.ca_file)
            else:
                self._found[registry] = find_certificates(self._folders, registry)
        return self._found[registry]

    def allows_plain_http(self, registry: str) -> bool:
        """Return whether registries.conf allows plain HTTP for a registry that does not speak TLS, with a notice if so.

        Raises: FileUnusable, RegistriesConfInvalid.
        """
        file = self._registries_conf.insecure(registry)
        if file is not None:
            self._notice(f"{registry} can't be asked with TLS: asking without, since {file} has insecure = true for it")
        return file is not None
