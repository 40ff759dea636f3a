"""The settings: precedence of the sources, and messages for invalid values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from boltseal.config import ConfigInvalid
from boltseal.errors import ExitCode, exit_code
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import Mode
from boltseal.server import configuration
from boltseal.server.listen_address import ListenAddress
from boltseal.server.settings import ServerSettings, Settings, exposure_refusal

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings of the test machine's environment."""
    for name in os.environ:
        if name.upper().startswith("BOLTSEAL_"):
            monkeypatch.delenv(name)


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Load settings without a file in /etc."""
    return configuration.load(path, overrides, default_file=EXAMPLES / "no-such-file.toml")


def written(tmp_path: Path, text: str) -> Path:
    """Write a configuration file."""
    path = tmp_path / "boltseal.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    """Return the error message of a configuration, without the name of the file."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigInvalid) as caught:
        load(path)
    assert "\n" not in caught.value.message
    assert exit_code(caught.value) is ExitCode.USAGE
    return caught.value.message.replace(f"{path}: ", "")


# --- precedence of sources ---


def test_without_a_file_the_defaults_are_safe() -> None:
    """The defaults listen on loopback, grant nothing, and seal every tag."""
    settings = load()

    assert settings.server.address == ("127.0.0.1", 5000)
    assert settings.server.address.loopback
    assert not settings.server.allow_anonymous
    assert settings.rules.user == ()


def test_a_flag_precedes_environment_file_and_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source overrides the ones below it, setting by setting."""
    path = written(tmp_path, '[server]\nlisten = "127.0.0.1:1001"\nworkers = 2\nlog_level = "debug"\n')
    monkeypatch.setenv("BOLTSEAL_SERVER__LISTEN", "127.0.0.1:1002")
    monkeypatch.setenv("BOLTSEAL_SERVER__WORKERS", "3")

    server = load(path, {"server": {"listen": "127.0.0.1:1003"}}).server

    assert (server.listen, server.workers, server.log_level, server.log_format) == (
        "127.0.0.1:1003",
        3,
        "debug",
        "auto",
    )


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BOLTSEAL_CONFIG names the file if no flag does."""
    monkeypatch.setenv("BOLTSEAL_CONFIG", str(written(tmp_path, "[server]\nworkers = 5\n")))

    assert load().server.workers == 5


def test_a_file_named_by_a_flag_replaces_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag takes precedence over BOLTSEAL_CONFIG."""
    monkeypatch.setenv("BOLTSEAL_CONFIG", str(tmp_path / "absent.toml"))

    assert load(written(tmp_path, "[server]\nworkers = 6\n")).server.workers == 6


def test_the_file_in_etc_is_read_by_default(tmp_path: Path) -> None:
    """Without a flag or variable, the file in /etc is read."""
    file = written(tmp_path, "[server]\nworkers = 7\n")

    assert configuration.load(default_file=file).server.workers == 7


def test_settings_made_from_arguments_read_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings built from arguments read neither files nor variables, so two sets can coexist in one process."""
    monkeypatch.setenv("BOLTSEAL_SERVER__WORKERS", "9")

    assert Settings().server.workers == 1


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen: assigning to one raises an error."""
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.server.workers = 2


def test_rules_come_from_the_file(tmp_path: Path) -> None:
    """The [[rule]] tables are parsed by `policy`, in order."""
    settings = load(written(tmp_path, '[[rule]]\nrepository = "ci/**"\nmode = "floating"\n'))

    assert [(str(rule.repository), rule.mode) for rule in settings.rules.user] == [("ci/**", Mode.FLOATING)]


def test_tables_of_tags_apply_to_every_upstream(tmp_path: Path) -> None:
    """The [[tags]] tables say how upstream tags move; an invalid one names its number."""
    table = '[[tags]]\nrepository = "docker.io/library/**"\nexpect = "{}"\n[[upstream]]\nname = "docker.io"\n'
    (terms,) = load(written(tmp_path, table.format("rebuilt"))).upstreams

    assert not terms.alarm(Repository("library/node"), Tag("16.13.0"), gone=False)
    assert terms.alarm(Repository("library/node"), Tag("16.13.0"), gone=True)
    assert refusal(tmp_path, table.format("never")).startswith('[[tags]] 1: expect is "never"; expected one of')


def test_rules_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """BOLTSEAL_RULE has rules as JSON, for a container without a file."""
    monkeypatch.setenv("BOLTSEAL_RULE", '[{"tag": "v*", "mode": "floating"}]')

    assert [str(rule.tag) for rule in load().rules.user] == ["v*"]


def test_sizes_may_have_a_unit(tmp_path: Path) -> None:
    """4 MiB may be written with a unit instead of as 4194304."""
    settings = load(written(tmp_path, '[server]\nmax_manifest_bytes = "8 MiB"\n'))

    assert settings.server.max_manifest_bytes == 8 * 1024 * 1024


# --- error messages ---


def test_an_unknown_setting_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    """A mistyped setting is an error that names the nearest one."""
    line = refusal(tmp_path, '[server]\nlisen = "127.0.0.1:5000"\n')

    assert line == 'unknown setting "lisen" in [server]; the nearest known one is listen'


def test_an_unknown_table_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    """A mistyped table such as [sever] is an error that names the nearest one."""
    line = refusal(tmp_path, "[sever]\nworkers = 1\n")

    assert line == 'unknown table "sever"; the nearest known one is server'


def test_a_setting_outside_of_its_table_is_an_error_with_the_table(tmp_path: Path) -> None:
    """For `listen` outside of its table, the error names the table it belongs to."""
    line = refusal(tmp_path, 'listen = "127.0.0.1:5000"\n')

    assert line == "listen is outside of any table; put it under [server]"


def test_a_single_table_for_a_list_is_refused(tmp_path: Path) -> None:
    """A table in single brackets where TOML needs double ones is refused."""
    line = refusal(tmp_path, '[rule]\nrepository = "ci/**"\n')

    assert line == "[rule] is a list of tables; write [[rule]]"


def test_an_unknown_variable_is_an_error_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown variable is an error that names the nearest one, like an unknown setting."""
    monkeypatch.setenv("BOLTSEAL_SERVER__LISTN", "127.0.0.1:5000")

    with pytest.raises(ConfigInvalid) as caught:
        load()

    assert caught.value.message == (
        'environment: "BOLTSEAL_SERVER__LISTN" is not a setting; the nearest known one is BOLTSEAL_SERVER__LISTEN'
    )


def test_the_variables_of_a_kubernetes_service_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that Kubernetes sets for a service called boltseal are not treated as settings."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_5000_TCP", "PORT_5000_TCP_ADDR"):
        monkeypatch.setenv(f"BOLTSEAL_{name}", "tcp://10.0.0.1:5000")

    assert load().server.listen == "127.0.0.1:5000"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[server]\nlisten = "5000"\n',
            '[server] listen is "5000"; expected an IP address and a port from 1 to 65535, such as 127.0.0.1:5000, '
            "or 0.0.0.0:5000 for every interface",
        ),
        ("[server]\nworkers = 0\n", '[server] workers is "0"; expected greater than or equal to 1'),
        ('[server]\nworkers = "many"\n', '[server] workers is "many"; expected a valid integer'),
        ("[server]\nbehind_proxy = 7\n", '[server] behind_proxy is "7"; expected a valid boolean'),
        (
            '[server]\nlog_level = "loud"\n',
            "[server] log_level is \"loud\"; expected 'debug', 'info', 'warning' or 'error'",
        ),
        (
            '[server]\npublic_url = "registry.example.com"\n',
            '[server] public_url is "registry.example.com"; expected a scheme and a host without a path, such as '
            "https://registry.example.com",
        ),
        ('[server]\ndata = ""\n', '[server] data is ""; expected the name of a folder, such as /var/lib/boltseal'),
        (
            '[ledger]\norigin = "a b"\n',
            '[ledger] origin is "a b"; expected a host name and perhaps a path, in lower case, such as '
            "registry.example.com",
        ),
        ('server = "x"\n', '[server] is "x"; expected a valid dictionary or instance of ServerSettings'),
        ('[server]\nlisten = "\\u001b[31m:1"\n', None),
    ],
)
def test_an_invalid_value_is_reported_with_got_and_expected(tmp_path: Path, text: str, line: str | None) -> None:
    """An invalid value is one line with got and expected, without control characters."""
    found = refusal(tmp_path, text)

    assert found.isprintable()
    assert line is None or found.startswith(line)


def test_an_invalid_value_of_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid value of a variable is reported with the variable's name."""
    monkeypatch.setenv("BOLTSEAL_SERVER__WORKERS", "many")

    with pytest.raises(
        ConfigInvalid, match=r'^environment: BOLTSEAL_SERVER__WORKERS is "many"; expected a valid integer'
    ):
        load()


def test_an_invalid_flag_names_the_command_line(tmp_path: Path) -> None:
    """An invalid flag is reported as such, and not as an error of the file."""
    path = written(tmp_path, "[server]\nworkers = 2\n")

    with pytest.raises(ConfigInvalid, match=r'^command line: \[server\] workers is "0"'):
        load(path, {"server": {"workers": 0}})


def test_an_invalid_rule_names_its_number(tmp_path: Path) -> None:
    """An invalid rule is reported with the file and the rule's number."""
    line = refusal(tmp_path, '[[rule]]\ntag = "v*"\n[[rule]]\nmode = "frozen"\n')

    assert line.startswith('rule 2: mode is "frozen"; expected')


def test_a_file_that_is_not_toml_is_reported_with_its_position(tmp_path: Path) -> None:
    """A file that is not TOML is reported with line and column."""
    assert "line 2" in refusal(tmp_path, "[server]\nlisten = \n")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """A binary file is an error, not a crash."""
    path = tmp_path / "boltseal.toml"
    path.write_bytes(b"a = '\xff'")

    with pytest.raises(ConfigInvalid, match="not UTF-8 at byte 5"):
        load(path)


def test_a_named_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    """A named configuration file that is missing is an error, and defaults are not used instead."""
    with pytest.raises(ConfigInvalid, match=r"absent\.toml: No such file"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    "name",
    ["BOLTSEAL_RULE", "BOLTSEAL_WITNESS", "BOLTSEAL_AUTH__GRANT", "BOLTSEAL_AUTH__ISSUER", "BOLTSEAL_AUTH__QUOTA"],
)
def test_a_list_in_the_environment_that_is_not_json_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in a variable that is not JSON is reported with the variable's name."""
    monkeypatch.setenv(name, "[")

    with pytest.raises(ConfigInvalid, match=rf"^environment: {name} is not JSON"):
        load()


def test_a_setting_with_several_forms_is_reported_as_written(tmp_path: Path) -> None:
    """For a setting with several forms, the error repeats the written value and all forms."""
    file = tmp_path / "boltseal.toml"
    file.write_text('[auth]\nanonymous_pull = "shop"\n')

    with pytest.raises(ConfigInvalid, match=r'boltseal\.toml: \[auth\] anonymous_pull is "shop"; expected '):
        load(file)


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000, "127.0.0.1:5000"),
        ("localhost:80", "127.0.0.1", 80, "127.0.0.1:80"),
        ("[::1]:65535", "::1", 65535, "[::1]:65535"),
        ("192.0.2.1:5000", "192.0.2.1", 5000, "192.0.2.1:5000"),
    ],
)
def test_an_address_is_read_with_and_without_brackets(text: str, host: str, port: int, shown: str) -> None:
    """IPv6 addresses are read with and without brackets, and printed with them."""
    address = ListenAddress.parse(text)

    assert address == (host, port)
    assert str(address) == shown


@pytest.mark.parametrize(
    "text", ["", ":5000", "5000", "::1:5000", "127.0.0.1:0", "127.0.0.1:65536", "h:1", "127.0.0.1:\u0665"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    """An incomplete address is refused and not completed."""
    with pytest.raises(ValueError, match="an IP address and a port"):
        ListenAddress.parse(text)


# --- guarantee 12: secure by default ---


@pytest.mark.parametrize("listen", ["127.0.0.1:5000", "127.9.9.9:5000", "[::1]:5000"])
def test_loopback_needs_no_flags(listen: str) -> None:
    """A loopback address needs neither users nor TLS, since only this machine can connect."""
    assert exposure_refusal(ServerSettings(listen=listen), authenticated=False) is None


@pytest.mark.parametrize("listen", ["0.0.0.0:5000", "[::]:5000", "192.0.2.1:5000"])
@pytest.mark.parametrize(
    ("flags", "authenticated", "missing"),
    [
        ({}, False, ["authentication", "TLS"]),
        ({"allow_anonymous": True}, False, ["TLS"]),
        ({"behind_proxy": True}, False, ["authentication"]),
        ({"tls_cert": Path("tls.crt"), "tls_key": Path("tls.key")}, False, ["authentication"]),
        ({}, True, ["TLS"]),
        ({"behind_proxy": True}, True, []),
        ({"tls_cert": Path("tls.crt"), "tls_key": Path("tls.key")}, True, []),
        ({"allow_anonymous": True, "behind_proxy": True}, False, []),
    ],
)
def test_a_reachable_address_needs_users_and_tls_or_a_flag(
    listen: str, flags: dict[str, object], authenticated: bool, missing: list[str]
) -> None:
    """An address that other machines can reach needs users and TLS, or the flags that the refusal names."""
    refused = exposure_refusal(ServerSettings(listen=listen, **flags), authenticated=authenticated)  # type: ignore[arg-type]  # a table of settings
    named = [what for what in ("authentication", "TLS") if refused and f"without {what}" in refused]

    assert named == missing


# --- the examples ---


def test_the_example_loads_and_changes_nothing() -> None:
    """Each active line of the example is a default or a rule, so that copying the file is safe."""
    settings = load(EXAMPLES / "boltseal.toml")

    assert settings.server == ServerSettings(data=Path("/var/lib/boltseal/data"))


def test_the_example_names_every_setting() -> None:
    """The example documents every setting."""
    text = (EXAMPLES / "boltseal.toml").read_text(encoding="utf-8")

    missing = [name for name in ServerSettings.model_fields if f"\n{name} = " not in text.replace("\n# ", "\n")]

    assert missing == []


def test_the_conformance_profile_makes_every_tag_mutable() -> None:
    """The conformance profile makes every tag mutable, since the public suite reuses tags."""
    settings = load(EXAMPLES / "conformance.toml")

    assert [(str(rule), rule.mode) for rule in settings.rules.user] == [("every name", Mode.FLOATING)]


def test_limits_do_not_configure_authentication(tmp_path: Path) -> None:
    """Limits on uploads do not count as a configuration of authentication."""
    bounds = '[auth]\nmax_uploads_per_user = 9\n[[auth.quota]]\nusers = ["anonymous"]\nmax_bytes = "1 GiB"\n'

    assert not load(written(tmp_path, bounds)).auth.configured
    assert load(written(tmp_path, f"{bounds}[[auth.grant]]\nusers = ['ci']\nactions = ['pull']\n")).auth.configured


def test_an_invalid_quota_is_reported(tmp_path: Path) -> None:
    """An invalid quota is an error with file, number, value and expected form."""
    message = refusal(tmp_path, '[[auth.quota]]\nusers = ["ci"]\nmax_bytes = "lots"\n')

    assert message == 'quota 1: max_bytes is "lots"; expected a size, such as "50 GiB"'


ISSUER = """
[[auth.issuer]]
name = "github"
url = "https://token.actions.githubusercontent.com"
audience = "https://registry.example.com"

[[auth.issuer.rule]]
claims = { repository_id = "123" }
repository = "shop/app"
actions = ["push"]
"""


def test_an_issuer_of_pipelines_configures_access(tmp_path: Path) -> None:
    """With an issuer callers must log in, also without a user; its values are read as in the file."""
    settings = load(written(tmp_path, ISSUER))

    assert settings.auth.configured
    assert settings.login_required
    assert [(terms.name, len(terms.rules)) for terms in settings.issuers] == [("github", 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ISSUER.replace("audience", "audiense"), 'issuer 1: unknown key "audiense"; did you mean audience?'),
        (ISSUER.replace("actions", "action"), 'issuer 1, rule 1: unknown key "action"; did you mean actions?'),
        (ISSUER.replace("repository_id", "repository"), "issuer 1, rule 1: claims has nothing that identifies"),
        (ISSUER.replace("https://token", "http://token"), "issuer 1: url is"),
    ],
)
def test_an_invalid_issuer_is_an_error_of_a_line(tmp_path: Path, text: str, expected: str) -> None:
    """The message names the table, the key and what was expected."""
    assert expected in refusal(tmp_path, text)
