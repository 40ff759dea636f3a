"""Parsing the `[[on_outdated]]` tables, and which of them applies to an image."""

from __future__ import annotations

from typing import Any

import pytest

from boltseal.policy.rebuild_actions import (
    KEYS,
    OnOutdatedInvalid,
    action_for,
    parse_on_outdated,
    separator_for,
    token_of,
)

COMMAND = ["/usr/bin/rebuild", "{image}", "--on={base}@{base_digest}", "{digest}"]


def test_the_first_table_that_matches_an_image_applies() -> None:
    """The first table that matches an image's repository and tag applies; an image without a tag matches by repository."""
    actions = parse_on_outdated(
        [
            {"repository": "shop/**", "tag": "latest", "command": ["a"]},
            {"repository": "shop/*", "command": ["b"]},
        ]
    )

    def command(repository: str, tag: str | None) -> object:
        found = action_for(actions, repository, tag)
        return found if found is None else found.command[0]

    assert command("shop/app", "latest") == "a"
    assert command("shop/app", "1.0.0") == "b"
    assert command("shop/app", None) == "a"
    assert command("shop/team/app", "1.0.0") is None


def test_revisions_have_the_separator_of_the_image() -> None:
    """The first table that matches an image names the separator of its revisions; without one it is a dot."""
    actions = parse_on_outdated([{"repository": "shop/*", "command": ["a"], "revision": "-r"}])

    assert separator_for(actions, "shop/app", "1.4.2") == "-r"
    assert separator_for(actions, "team/app", "1.4.2") == "."


def test_placeholders_are_replaced_argument_by_argument() -> None:
    """Placeholders are replaced in each argument of a command without a shell, so nothing needs quoting."""
    (action,) = parse_on_outdated([{"command": COMMAND}])

    assert action.words({"image": "i ; x", "digest": "d", "base": "b", "base_digest": "e"}) == [
        "/usr/bin/rebuild",
        "i ; x",
        "--on=b@e",
        "d",
    ]


def test_every_key_has_its_default_or_the_given_value() -> None:
    """Each key has its default or the given value, with times in microseconds."""
    (plain,) = parse_on_outdated([{"url": "https://ci.example.com/hook"}])
    (parsed,) = parse_on_outdated(
        [
            {
                "repository": "a/*",
                "tag": "latest",
                "url": "http://localhost:8080/x",
                "token_env": "TOKEN",
                "attempts": 1,
                "timeout": "90s",
                "every": "5m",
                "revision": "-r",
            }
        ]
    )

    assert (plain.attempts, plain.timeout_us, plain.every_us) == (3, 3_600_000_000, 21_600_000_000)
    assert (parsed.url, parsed.token_env, parsed.attempts) == ("http://localhost:8080/x", "TOKEN", 1)
    assert (parsed.timeout_us, parsed.every_us) == (90_000_000, 300_000_000)
    assert (plain.revision, parsed.revision) == (".", "-r")
    assert len(KEYS) == 9


BAD: list[tuple[dict[str, Any], str]] = [
    ({"command": ["a"], "shell": True}, "unknown key"),
    ({}, "either command or url"),
    ({"command": ["a"], "url": "https://x.example"}, "either command or url"),
    ({"command": ["a"], "token_env": "T"}, "token_env is for a url"),
    ({"command": ["a"], "revision": "+"}, "expected one of"),
    ({"command": "rm -rf /"}, "list of words"),
    ({"command": []}, "list of words"),
    ({"command": [1]}, "list of words"),
    ({"command": ["a\0b"]}, "list of words"),
    ({"command": ["a", "{nothing}"]}, "expected one of {image}"),
    ({"command": ["{image}"]}, "expected a program"),
    ({"command": [""]}, "expected a program"),
    ({"command": ["a"], "repository": "["}, "never closes"),
    ({"command": ["a"], "repository": 1}, "expected a text"),
    ({"command": ["a"], "tag": ""}, "empty glob"),
    ({"url": "http://ci.example.com/"}, "can be called"),
    ({"url": "https://user:secret@ci.example.com/"}, "can be called"),
    ({"url": "https://"}, "can be called"),
    ({"url": "https://x.example/ y"}, "can be called"),
    ({"url": "https://x.example:99999/"}, "not an address"),
    ({"url": "https://x.example:0/"}, "can be called"),
    ({"url": "https://x.example/", "token_env": "1 2"}, "name of a variable"),
    ({"command": ["a"], "attempts": 0}, "1 to 10"),
    ({"command": ["a"], "attempts": True}, "1 to 10"),
    ({"command": ["a"], "attempts": "3"}, "1 to 10"),
    ({"command": ["a"], "timeout": "soon"}, "timeout is"),
    ({"command": ["a"], "timeout": "2d"}, "between 1 s"),
    ({"command": ["a"], "every": "1m"}, "between 300 s"),
]


@pytest.mark.parametrize(("table", "words"), BAD)
def test_an_invalid_table_is_refused(table: dict[str, Any], words: str) -> None:
    """An invalid table is an error with its number, without any secret of a URL."""
    with pytest.raises(OnOutdatedInvalid, match="on_outdated 1: ") as raised:
        parse_on_outdated([table])

    assert words in raised.value.message
    assert "secret" not in raised.value.message


def test_too_many_tables_are_refused() -> None:
    """The number of tables is limited."""
    with pytest.raises(OnOutdatedInvalid, match="at most 1000"):
        parse_on_outdated([{"command": ["a"]}] * 1001)


def test_a_token_is_one_word_of_header_characters() -> None:
    """A token is one word without its line end; one that can't be a header value is refused and not shown."""
    assert token_of("CI_TOKEN", "word-1\n") == "word-1"
    for text in ("two words", "caf\xe9", "a\nb", "\n"):
        with pytest.raises(OnOutdatedInvalid, match='"CI_TOKEN" holds no bearer token') as caught:
            token_of("CI_TOKEN", text)

        assert text.strip() == "" or text not in caught.value.message
