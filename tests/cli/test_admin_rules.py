"""`boltseal admin rules` and `boltseal admin rules test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import program
from tests.signatures.signers import Signer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with two rules of the operator's own."""
    path = tmp_path / "boltseal.toml"
    path.write_text(
        '[[rule]]\nrepository = "ci/**"\nmode = "floating"\n[[rule]]\nrepository = "shop/*"\ntag = "pr-*"\nkeep = "30d"\n',
        encoding="utf-8",
    )
    return path


def test_rules_are_shown_in_their_order(config: Path) -> None:
    """The operator's rules come first, and the last built-in rule seals everything."""
    shown = program.call("admin", "rules", "--config", config)
    lines = [line.split() for line in shown.out.splitlines()]

    assert shown.code == 0
    assert lines[0] == ["RULE", "REPOSITORY", "TAG", "MODE", "KEEP"]
    assert lines[1] == ["1", "ci/**", "*", "floating", "deletable"]
    assert lines[2] == ["2", "shop/*", "pr-*", "sealed", "30d"]
    assert lines[3] == ["built-in", "**", "latest", "floating", "deletable"]
    assert lines[-1] == ["built-in", "**", "*", "sealed", "forever"]


def test_the_table_fits_a_terminal(config: Path) -> None:
    """The table has at most 80 columns, and no blanks at the end of a line."""
    lines = program.call("admin", "rules", "--config", config).out.splitlines()

    assert max(map(len, lines)) <= 80
    assert lines == [line.rstrip() for line in lines]


def test_rules_as_json(config: Path) -> None:
    """JSON has the values of the table."""
    output = program.call("admin", "rules", "--config", config, "--json").json

    assert output["schema"] == "boltseal.admin-rules/1"
    assert output["outcome"] == "holds"
    assert output["results"][1] == {
        "number": 2,
        "built_in": False,
        "repository": "shop/*",
        "tag": "pr-*",
        "mode": "sealed",
        "keep": "30d",
        "settle": None,
        "require": [],
    }


def test_rules_that_let_tags_settle_show_for_how_long(tmp_path: Path) -> None:
    """The table has the column only where a rule has the setting; JSON always has the key."""
    path = tmp_path / "boltseal.toml"
    path.write_text('[[rule]]\nrepository = "parts/**"\nsettle = "90s"\n', encoding="utf-8")
    lines = program.call("admin", "rules", "--config", path).out.splitlines()
    output = program.call("admin", "rules", "--config", path, "--json").json
    decision = program.call("admin", "rules", "test", "parts/app", "1.0", "--config", path, "--json").json

    assert lines[0].split()[-1] == "SETTLE"
    assert lines[1].split() == ["1", "parts/**", "*", "sealed", "forever", "90s"]
    assert max(map(len, lines)) <= 80
    assert [each["settle"] for each in output["results"]][:2] == ["90s", None]
    assert decision["results"][0]["settle"] == "90s"


@pytest.mark.parametrize(
    ("repository", "tag", "mode", "why"),
    [
        ("ci/deep/image", "7", "floating", 'rule 1 (repository "ci/**")'),
        ("shop/app", "pr-7", "sealed", "rule 2"),
        ("shop/app", "latest", "floating", 'built-in rule (tag "latest")'),
        ("shop/app", "1.4.2", "sealed", "no rule matches"),
        ("shop/app", f"sha256-{'a' * 64}.sig", "append-only", "built-in rule"),
    ],
)
def test_rules_test_says_which_decides_and_why(config: Path, repository: str, tag: str, mode: str, why: str) -> None:
    """`rules test` prints the mode on stdout and the reason on stderr."""
    shown = program.call("admin", "rules", "test", repository, tag, "--config", config)

    assert (shown.code, shown.out) == (0, f"{mode}\n")
    assert why in shown.err


def test_rules_test_as_json(config: Path) -> None:
    """JSON of `rules test` has reference, mode and reason."""
    output = program.call("admin", "rules", "test", "shop/app", "pr-7", "--config", config, "--json").json

    assert output["schema"] == "boltseal.admin-rules-test/1"
    assert output["results"] == [
        {
            "ref": "shop/app:pr-7",
            "status": "sealed",
            "reason": 'rule 2 (repository "shop/*" tag "pr-*")',
            "keep": "30d",
            "settle": None,
            "require": [],
        }
    ]


@pytest.mark.parametrize(("repository", "tag"), [("Shop/app", "1"), ("shop/app", "a/b"), ("", "1")])
def test_an_invalid_reference_is_a_usage_error(repository: str, tag: str) -> None:
    """An invalid reference is a usage error, because no rule can match it."""
    shown = program.call("admin", "rules", "test", repository, tag)

    assert shown.code == 2
    assert shown.out == ""
    assert shown.err.startswith("boltseal: ")


def test_a_reference_with_a_host_has_its_own_message() -> None:
    """A reference with a registry host, as docker writes it, gets its own message."""
    shown = program.call("admin", "rules", "test", "localhost:5000/shop/app", "1.4.2")

    assert shown.code == 2
    assert shown.err == (
        'boltseal: "localhost:5000/shop/app" starts with a host; give the repository without it: "shop/app"\n'
    )


def test_an_invalid_rule_is_a_usage_error(tmp_path: Path) -> None:
    """An invalid rule is one line with the file and the rule's number, and exit code 2."""
    path = tmp_path / "boltseal.toml"
    path.write_text('[[rule]]\nmode = "frozen"\n', encoding="utf-8")
    shown = program.call("admin", "rules", "--config", path)

    assert shown.code == 2
    assert shown.err.startswith(f"boltseal: {path}: rule 1: ")
    assert shown.err.count("\n") == 1


def test_a_rule_with_settle_says_when_a_tag_is_sealed(tmp_path: Path) -> None:
    """Such a tag waits for its index."""
    config = tmp_path / "boltseal.toml"
    config.write_text('[[rule]]\nsettle = "60s"\n', encoding="utf-8")
    result = program.call("admin", "rules", "test", "shop/app", "1.4", "--config", config)

    assert "shop/app:1.4 is sealed at its index, or 1m after its first push, kept permanently" in result.err


def test_options_before_a_subcommand_are_refused(config: Path) -> None:
    """`admin rules --server HOST test` would not ask that registry, so the options are refused before `test`."""
    server = program.call("admin", "rules", "--server", "registry.example", "test", "shop/app", "1.4.2")
    other = program.call("admin", "rules", "--config", config, "test", "shop/app", "1.4.2")

    assert (server.code, other.code) == (2, 2)
    assert server.err == "boltseal: options of a registry or a configuration come after `test`\n"


def test_a_registry_and_a_configuration_exclude_each_other(config: Path) -> None:
    """With both it would not be clear whose rules are shown."""
    shown = program.call("admin", "rules", "--server", "registry.example", "--config", config)

    assert shown.code == 2
    assert "exclude each other" in shown.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[rule]]\nmode = "frozen"\n', "rule 1: "),
        ("[[rule]]\ntag = 5\n", "expected a string"),
        ('rule = "all"\n', "write each rule as [[rule]]"),
        ("[[rule\n", "is not valid TOML"),
        ("\x00", "is not valid TOML"),
    ],
)
def test_a_file_that_has_no_valid_rules_is_a_usage_error(tmp_path: Path, text: str, problem: str) -> None:
    """`rules plan` names the file and what is wrong in it, and looks at no tag."""
    file = tmp_path / "new.toml"
    file.write_text(text, encoding="utf-8")
    shown = program.call("admin", "rules", "plan", file, "--data", tmp_path / "data")

    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith(f"boltseal: {file}")
    assert problem in shown.err


def test_a_plan_of_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """The file is looked for before anything else."""
    shown = program.call("admin", "rules", "plan", tmp_path / "none.toml", "--data", tmp_path)

    assert (shown.code, "no such file or folder" in shown.err) == (2, True)


def test_a_rule_shows_the_signatures_that_it_requires(tmp_path: Path) -> None:
    """The list, the decision about a tag, and the plan of a configuration whose keys are elsewhere."""
    signer = Signer.on_p256()
    (tmp_path / "release.pub").write_bytes(signer.pem)
    config = tmp_path / "boltseal.toml"
    config.write_text(f'[[rule]]\nrequire = [{{ key = "{tmp_path}/release.pub" }}]\n', encoding="utf-8")
    wanted = f"a signature by release.pub (sha256:{signer.key.fingerprint[:12]})"

    shown = program.call("admin", "rules", "--config", config)
    decided = program.call("admin", "rules", "test", "shop/app", "1.4", "--config", config)
    missing = program.call("admin", "rules", "--config", _with_missing_key(tmp_path))

    assert "REQUIRE" in shown.out
    assert wanted in " ".join(shown.out.split())
    assert decided.err.endswith(f"an image needs {wanted}\n")
    assert missing.code == 2
    assert 'require[0]: cannot read "' in missing.err


def _with_missing_key(folder: Path) -> Path:
    config = folder / "missing.toml"
    config.write_text('[[rule]]\nrequire = [{ key = "/nowhere/release.pub" }]\n', encoding="utf-8")
    return config
