"""Links to the commits between two revisions."""

from __future__ import annotations

import pytest

from boltseal.transfer.source_link import compare_link

OLD, NEW = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("source", "link"),
    [
        ("https://github.com/acme/app", f"https://github.com/acme/app/compare/{OLD}...{NEW}"),
        ("https://github.com/acme/app.git", f"https://github.com/acme/app/compare/{OLD}...{NEW}"),
        ("git@github.com:acme/app.git", f"https://github.com/acme/app/compare/{OLD}...{NEW}"),
        ("https://gitlab.com/acme/team/app/", f"https://gitlab.com/acme/team/app/-/compare/{OLD}...{NEW}"),
        ("https://codeberg.org/acme/app", f"https://codeberg.org/acme/app/compare/{OLD}...{NEW}"),
        ("ssh://git@bitbucket.org/acme/app", f"https://bitbucket.org/acme/app/branches/compare/{NEW}..{OLD}"),
    ],
)
def test_a_known_forge_has_a_link(source: str, link: str) -> None:
    """The source of a known forge, in each form that git accepts, has a link to the commits."""
    assert compare_link(source, OLD, NEW) == link


@pytest.mark.parametrize(
    ("source", "old"),
    [
        ("https://evil.example/acme/app", OLD),
        ("https://github.com.evil.example/acme/app", OLD),
        ("https://github.com@evil.example/acme/app", OLD),
        ("https://github.com/acme/app)[x](https://evil.example", OLD),
        ("https://github.com/../app", OLD),
        ("https://github.com/acme", OLD),
        ("javascript:alert(1)", OLD),
        ("https://github.com/acme/app\n", OLD),
        ("https://github.com/acme/app", "main"),
        ("https://github.com/acme/app", "abc123f-dirty"),
        ("https://github.com/acme/app", ""),
        ("", OLD),
    ],
)
def test_anything_else_has_none(source: str, old: str) -> None:
    """Another host, another form of a path, or a revision that is no commit has no link."""
    assert compare_link(source, old, NEW) is None
