"""Certificate authorities and client certificates of one registry: which are used, and for which connections."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from boltseal.client.certificates import (
    AuthorityInvalid,
    ClientCertificateInvalid,
    KeyPair,
    find_certificates,
    tls_context,
)
from boltseal.client.config_files import FileUnusable
from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteUntrusted
from boltseal.client.registries_conf import RegistriesConf
from boltseal.client.registry_configuration import RegistryConfiguration
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.registry_settings import RegistrySettings
from boltseal.client.transport import Transport, TransportOptions
from boltseal.config import RegistriesConfPaths
from boltseal.errors import BoltsealError, Unavailable
from tests.authority import Authority, authority
from tests.client.listening import listening

HERE = "0.0.0.0"  # noqa: S104 - an address of this machine for a client, and not a loopback address


@pytest.fixture
def signed(tmp_path: Path) -> Authority:
    (tmp_path / "authority").mkdir()
    return authority(tmp_path / "authority", client=True, addresses=[HERE])


def certs_d(folder: Path, registry: str, **files: Path) -> Path:
    """Create a folder certs.d with copies of these files for one registry; `client_cert` is copied as `client.cert`."""
    (folder / registry).mkdir(parents=True)
    for name, source in files.items():
        shutil.copy(source, folder / registry / name.replace("_", "."))
    return folder


class Answers:
    """A TLS server that answers 200 or a redirect; `subjects`: the client certificates that it received."""

    def __init__(
        self, signed: Authority, *, wants_certificate: bool = False, to: str | None = None, realm: str | None = None
    ) -> None:
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(signed.cert, signed.key)
        if wants_certificate:
            self.tls.load_verify_locations(signed.ca)
            self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.to, self.realm = to, realm
        self.certificates: list[bool] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n")).strip():
            self.certificates.append(bool(writer.get_extra_info("peercert")))
            head = "HTTP/1.1 200 OK" if self.to is None else f"HTTP/1.1 307 Go\r\nlocation: {self.to}"
            if self.realm is not None:
                head = f'HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm="{self.realm}"'
            writer.write(f"{head}\r\ncontent-length: 0\r\n\r\n".encode())
            await writer.drain()


async def ask(registry: str, registries: RegistryConfiguration, **options: object) -> int:
    """Return the status of one request."""
    made = TransportOptions(registries=registries, attempts=1, **options)  # type: ignore[arg-type]  # a table of options
    transport = Transport(CredentialStore(()), made)
    try:
        return (await transport.request(RegistryRequest(registry, "GET", "/v2/x", "x"))).status
    finally:
        await transport.aclose()


@asynccontextmanager
async def asked_by_name(answers: Answers) -> AsyncIterator[str]:
    """Return the server's address as a registry on loopback, `localhost:PORT`."""
    async with listening(answers.serve, answers.tls) as port:
        yield f"localhost:{port}"


async def test_an_authority_in_certs_d_is_trusted_without_a_flag(signed: Authority, tmp_path: Path) -> None:
    """An authority in certs.d is trusted; without it there is one attempt, and the error names where the authority
    belongs."""
    async with asked_by_name(Answers(signed)) as registry:
        folder = certs_d(tmp_path / "certs.d", registry, ca_crt=signed.ca)
        with pytest.raises(RemoteUntrusted) as refused:
            await ask(registry, RegistryConfiguration(certificates=[tmp_path / "other"]))

        assert await ask(registry, RegistryConfiguration(certificates=[folder])) == 200
        assert "certificate verify failed" in refused.value.message
        assert f"or put the authority's .crt in {tmp_path}/other/{registry}" in refused.value.message


async def test_a_certificate_for_another_name_is_not_blamed_on_its_authority(signed: Authority, tmp_path: Path) -> None:
    """For a certificate of a trusted authority with another host name, the advice is about the name."""
    answers = Answers(signed)
    async with listening(answers.serve, answers.tls, "127.0.0.2") as port:
        registry = f"127.0.0.2:{port}"
        folder = certs_d(tmp_path / "certs.d", registry, ca_crt=signed.ca)
        with pytest.raises(RemoteUntrusted) as refused:
            await ask(registry, RegistryConfiguration(certificates=[folder]))

        assert "certificate is not valid for '127.0.0.2'" in refused.value.message
        assert "use a name of the registry that its certificate contains" in refused.value.message
        assert "authority" not in refused.value.message


async def test_an_authority_of_one_registry_is_not_trusted_for_another(signed: Authority, tmp_path: Path) -> None:
    """An internal registry's authority is not trusted for another registry such as ghcr.io."""
    async with asked_by_name(Answers(signed)) as registry, asked_by_name(Answers(signed)) as other:
        registries = RegistryConfiguration(certificates=[certs_d(tmp_path / "certs.d", registry, ca_crt=signed.ca)])
        transport = Transport(CredentialStore(()), TransportOptions(registries=registries, attempts=1))
        try:
            await transport.request(RegistryRequest(registry, "GET", "/v2/x", "x"))
            with pytest.raises(RemoteUntrusted, match=f"{other} was not asked for x"):
                await transport.request(RegistryRequest(other, "GET", "/v2/x", "x"))
        finally:
            await transport.aclose()


async def test_an_authority_is_trusted_for_the_redirects_of_its_registry(signed: Authority, tmp_path: Path) -> None:
    """As in docker and skopeo, a registry's authority is trusted for the storage host it redirects to."""
    storage = Answers(signed)
    async with (
        asked_by_name(storage) as elsewhere,
        asked_by_name(Answers(signed, to=f"https://{elsewhere}/blob")) as registry,
    ):
        folder = certs_d(tmp_path / "certs.d", registry, ca_crt=signed.ca)

        assert await ask(registry, RegistryConfiguration(certificates=[folder])) == 200
        assert storage.certificates == [False]


async def test_a_token_service_with_an_untrusted_certificate_is_named(signed: Authority, tmp_path: Path) -> None:
    """An untrusted token service is named in the error; no login is sent, and no retry is made."""
    (tmp_path / "another").mkdir()
    service = Answers(authority(tmp_path / "another"))
    async with (
        asked_by_name(service) as tokens,
        asked_by_name(Answers(signed, realm=f"https://{tokens}/token")) as registry,
    ):
        folder = certs_d(tmp_path / "certs.d", registry, ca_crt=signed.ca)
        with pytest.raises(RemoteUntrusted) as refused:
            await ask(registry, RegistryConfiguration(certificates=[folder]))

        assert refused.value.message.startswith(
            f"{registry}: its token service {tokens} was not asked: [SSL: CERTIFICATE"
        )
        assert service.certificates == []


async def test_a_client_certificate_is_shown_to_its_registry_only(signed: Authority, tmp_path: Path) -> None:
    """A client certificate is sent to its registry only, so no other host learns the user's identity."""
    storage = Answers(signed, wants_certificate=True)
    async with asked_by_name(storage) as elsewhere:
        home = Answers(signed, wants_certificate=True, to=f"https://{elsewhere}/blob")
        async with asked_by_name(home) as registry:
            files = {"ca_crt": signed.ca, "client_cert": signed.cert, "client_key": signed.key}
            folder = certs_d(tmp_path / "certs.d", registry, **files)

            assert await ask(registry, RegistryConfiguration(certificates=[folder])) == 200
            assert (home.certificates, storage.certificates) == ([True], [False])


async def test_the_settings_name_an_authority_in_place_of_certs_d(signed: Authority, tmp_path: Path) -> None:
    """An authority in the settings replaces certs.d, so an unreadable docker folder does not matter."""
    async with asked_by_name(Answers(signed)) as registry:
        folder = certs_d(tmp_path / "certs.d", registry, client_cert=signed.cert)
        mine = RegistrySettings(host=registry, ca_file=signed.ca)
        wrong = RegistrySettings(host=registry, ca_file=tmp_path / "none.pem")

        assert await ask(registry, RegistryConfiguration([mine], [folder])) == 200
        with pytest.raises(
            ClientCertificateInvalid, match=r"client\.cert has no key: client\.key is missing beside it"
        ):
            await ask(registry, RegistryConfiguration(certificates=[folder]))
        with pytest.raises(AuthorityInvalid, match=r"none\.pem: No such file"):
            await ask(registry, RegistryConfiguration([wrong], [folder]))


async def test_the_flag_adds_an_authority_to_those_of_certs_d(signed: Authority, tmp_path: Path) -> None:
    """`--ca-file` adds an authority for all registries of a command."""
    (tmp_path / "another").mkdir()
    another = authority(tmp_path / "another")
    async with asked_by_name(Answers(signed)) as registry:
        folder = certs_d(tmp_path / "certs.d", registry, ca_crt=another.ca)

        assert await ask(registry, RegistryConfiguration(certificates=[folder]), ca_file=signed.ca) == 200
        with pytest.raises(RemoteUntrusted):
            await ask(registry, RegistryConfiguration(certificates=[folder]))


def test_the_first_folder_for_the_registry_is_used_and_no_other(signed: Authority, tmp_path: Path) -> None:
    """As in skopeo, the first folder for a registry is used alone, even if it is empty."""
    first, second = tmp_path / "first", certs_d(tmp_path / "second", "a.test:5000", ca_crt=signed.ca)
    missing = find_certificates([first, second], "a.test:5000")
    (first / "a.test:5000").mkdir(parents=True)
    empty = find_certificates([first, second], "a.test:5000")

    assert len(missing.authorities) == 1
    assert empty.empty
    assert find_certificates([second], "a.test").empty


def test_all_certificates_of_a_folder_are_read_and_invalid_files_are_reported(
    signed: Authority, tmp_path: Path
) -> None:
    """All certificates of a folder's bundles are read; a file without a certificate is reported, where docker ignores
    it."""
    folder = certs_d(tmp_path / "certs.d", "a.test")
    inside = folder / "a.test"
    (inside / "1.crt").write_bytes(b"# caf\xc3\xa9\n" + signed.ca.read_bytes() + signed.cert.read_bytes())
    (inside / "2.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\xff")
    (inside / "3.pem").write_bytes(signed.ca.read_bytes())
    (inside / "4.crt").symlink_to(tmp_path / "none")
    found = find_certificates([folder], "a.test")

    assert len(found.authorities) == 2
    assert found.client is None
    assert found.notes == (f"{inside}/2.crt was ignored: it has no PEM certificate",)
    assert found.advice().endswith(found.notes[0])
    tls_context(None, found)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.cert", "x.cert has no key: x.key is missing beside it; the name of a CA certificate ends in .crt"),
        ("x.key", "x.key has no client certificate: x.cert is missing beside it"),
    ],
)
def test_half_of_a_client_certificate_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    """A client certificate without its key, or a key without its certificate, is an error as in docker and skopeo."""
    folder = certs_d(tmp_path / "certs.d", "a.test")
    (folder / "a.test" / name).write_text("")
    with pytest.raises(ClientCertificateInvalid) as refused:
        find_certificates([folder], "a.test")

    assert refused.value.message == f"{folder}/a.test/{message}"


def test_a_wrong_pair_is_an_error_and_a_passphrase_is_never_asked_for(signed: Authority, tmp_path: Path) -> None:
    """A key that does not match is an error; for an encrypted key OpenSSL never asks for a passphrase on the terminal."""
    folder = certs_d(tmp_path / "certs.d", "a.test", client_cert=signed.cert, client_key=signed.ca)
    found = find_certificates([folder], "a.test")
    encrypted = (
        b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,"
        b"0123456789ABCDEF0123456789ABCDEF\n\nAAAAAAAAAAAAAAAAAAAAAA==\n-----END EC PRIVATE KEY-----\n"
    )

    assert found.client == KeyPair(folder / "a.test/client.cert", folder / "a.test/client.key")
    with pytest.raises(ClientCertificateInvalid, match="are not a client certificate and its key in PEM"):
        tls_context(None, found)
    found.client.key.write_bytes(encrypted)
    with pytest.raises(
        ClientCertificateInvalid, match=r"client\.key is encrypted; expected a key without a passphrase"
    ):
        tls_context(None, found)


@pytest.mark.parametrize("kind", ["pipe", "folder", "huge"])
@pytest.mark.parametrize("name", ["ca.crt", "client.key"])
def test_a_certificate_that_can_not_be_read_is_named(signed: Authority, tmp_path: Path, name: str, kind: str) -> None:
    """An unreadable certificate is an error that names the file, and is not skipped."""
    folder = certs_d(tmp_path / "certs.d", "a.test", client_cert=signed.cert, client_key=signed.key)
    file = folder / "a.test" / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as sparse:
            sparse.truncate(1 << 40)
    with pytest.raises(FileUnusable, match=f"{file} can't be read: it "):
        find_certificates([folder], "a.test")


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    """A file in the place of a certs.d folder is an error: only a missing one is skipped."""
    (tmp_path / "certs.d").mkdir()
    (tmp_path / "certs.d/a.test").write_text("")
    with pytest.raises(FileUnusable, match=r"certs\.d/a\.test can't be read: Not a directory"):
        find_certificates([tmp_path / "certs.d"], "a.test")


# --- plain HTTP ---


async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A registry without TLS, which closes a connection that begins otherwise."""
    if await reader.readexactly(1) == b"G":
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()


def insecure(folder: Path, registry: str) -> RegistriesConf:
    file = folder / "registries.conf"
    file.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    return RegistriesConf(RegistriesConfPaths(file, file, file))


def named(port: int) -> str:
    """Return a registry on this machine under a name that is not loopback, which is therefore contacted with TLS."""
    return f"{HERE}:{port}"


async def test_plain_http_is_used_where_registries_conf_allows_it(tmp_path: Path) -> None:
    """A registry is contacted in plain HTTP only if registries.conf allows it, with a notice that names the file."""
    notices: list[str] = []
    async with listening(speak_plainly) as port:
        registry = named(port)
        conf = insecure(tmp_path, registry)

        assert await ask(registry, RegistryConfiguration(registries_conf=conf, notice=notices.append)) == 200
        assert notices == [
            f"{registry} can't be asked with TLS: asking without, since {tmp_path}/registries.conf has insecure = true for it"
        ]
        with pytest.raises(Unavailable):
            await ask(registry, RegistryConfiguration())


async def test_an_untrusted_certificate_is_not_replaced_by_plain_http(signed: Authority, tmp_path: Path) -> None:
    """`insecure = true` allows plain HTTP, but does not accept an untrusted certificate."""
    async with listening(Answers(signed).serve, Answers(signed).tls) as port:
        registry = named(port)
        with pytest.raises(RemoteUntrusted):
            await ask(registry, RegistryConfiguration(registries_conf=insecure(tmp_path, registry)))


async def test_the_settings_may_allow_plain_http() -> None:
    """The settings allow plain HTTP for exactly one registry."""
    async with listening(speak_plainly) as port, listening(speak_plainly) as other:
        registries = RegistryConfiguration([RegistrySettings(host=named(port), plain_http=True)])

        assert await ask(named(port), registries) == 200
        with pytest.raises(BoltsealError):
            await ask(named(other), registries)


async def test_a_registries_conf_with_a_mistake_does_not_matter_for_a_registry_with_tls(
    signed: Authority, tmp_path: Path
) -> None:
    """An invalid registries.conf does not affect a registry with TLS, because it is read only after TLS failed."""
    broken = tmp_path / "registries.conf"
    broken.write_text("[[")
    conf = RegistriesConf(RegistriesConfPaths(broken, broken, broken))
    async with listening(Answers(signed).serve, Answers(signed).tls) as port:
        registry = named(port)
        folder = certs_d(tmp_path / "certs.d", registry, ca_crt=signed.ca)

        assert await ask(registry, RegistryConfiguration(certificates=[folder], registries_conf=conf)) == 200
