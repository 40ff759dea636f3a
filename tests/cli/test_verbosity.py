"""-q and -v, before the command or after it; errors as JSON, also of usage; a reader that has enough."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.images import image

SHOP = "shop/app"


@pytest.fixture
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of the person at this machine is used."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "nobody"))


@pytest.mark.usefixtures("_nobody")
@pytest.mark.parametrize("where", ["before", "after"])
def test_v_prints_each_request_on_stderr(where: str) -> None:
    """Method, URL, status and time; the result on stdout is as without it."""
    with FakeUpstream().listening_in_thread() as upstream:
        app = upstream.publish(SHOP, "1.4.2", image("app"))
        words = ["digest", f"{upstream.authority}/{SHOP}:1.4.2"]
        told = program.call(*(["-v", *words] if where == "before" else [*words, "-v"]))
        plain = program.call(*words)

    line = rf"^HEAD http://{upstream.authority}/v2/{SHOP}/manifests/1\.4\.2 200 [0-9]+ ms$"
    assert (told.code, told.out) == (0, f"{app.digest}\n")
    assert re.search(line, told.err, re.MULTILINE)
    assert "HEAD" not in plain.err


@pytest.mark.usefixtures("_nobody")
@pytest.mark.parametrize("where", ["before", "after"])
def test_q_silences_notices_and_no_error(where: str, tmp_path: Path) -> None:
    """What went wrong is still told, and the exit code too."""
    (tmp_path / "compose.yaml").write_text("services: {web: {image: nginx}}\n")
    words = ["verify", "--offline", "--project", str(tmp_path)]
    told = program.call(*(["-q", *words] if where == "before" else [*words, "-q"]))
    failed = program.call("-q", "explain", "UPPER")

    assert (told.code, told.err) == (1, "")
    assert "not-pinned" in told.out
    assert (failed.code, failed.err.startswith("boltseal: ")) == (2, True)


@pytest.mark.parametrize(
    ("words", "schema", "message"),
    [
        (["digest", "--json"], "boltseal.digest/1", "Missing argument"),
        (["tag", "seal", "--json", "--nope"], "boltseal.tag-seal/1", "No such option: --nope"),
        (["watch", "a", "--every", "3", "--json"], "boltseal.watch/1", "Invalid value for '--every'"),
        (["verify", "--running", "x", "--json"], "boltseal.verify/1", "--running checks hosts"),
        (["nothing", "--json"], "boltseal.boltseal/1", 'no command "nothing"'),
    ],
)
def test_json_reports_errors_of_usage(words: list[str], schema: str, message: str) -> None:
    """One object on stdout with the error, exit code 2, and the message for people on stderr."""
    told = program.call(*words)

    assert told.code == 2
    assert (told.json["schema"], told.json["outcome"], told.json["results"]) == (schema, "unknown", [])
    assert [each["code"] for each in told.json["errors"]] == ["INVALID"]
    assert message in told.json["errors"][0]["message"]
    assert message in told.err


def test_json_reports_a_missing_extra() -> None:
    """The command never began."""
    code = (
        "import sys; sys.modules['pydantic'] = None; from boltseal.cli.root import run; run(['admin','fsck','--json'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = json.loads(ran.stdout)

    assert ran.returncode == 2
    assert told["schema"] == "boltseal.admin-fsck/1"
    assert "needs the server extra" in told["errors"][0]["message"]


def test_a_word_after_two_dashes_is_no_option() -> None:
    """`--json` there belongs to another program."""
    assert program.call("build", "--nope", "--", "--json").out == ""


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    """A command that printed it as JSON is not followed by a second object."""
    told = program.call("lock", "--project", tmp_path / "none", "--json")

    assert told.out.count("\n") == 1
    assert told.json["errors"]
