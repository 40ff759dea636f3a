"""Tables on stdout at several widths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.cli.table import print_table, table_lines

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
COLUMNS = ("ENTRY", "WHEN", "DIGEST", "BY, AND WHY")
ROWS = (
    ("0", "2026-11-23T09:00:41Z", ONE, "ci"),
    ("12", "2026-11-24T09:00:41Z", TWO, "ada: the first one had a wrong certificate in it"),
)


def test_a_cell_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A registry or host may name anything: escape sequences, line feeds and marks that turn the text are shown as text."""
    print_table(("NAME", "BY"), [("\x1b[2J\x1b]0;x\x07", "a\r\nb\u202ec\x9b1m")])
    out = capsys.readouterr().out

    assert all(char.isprintable() or char == "\n" for char in out)
    assert out.splitlines()[1].startswith("\\x1b[2J\\x1b]0;x\\x07")
    assert out.splitlines()[1].endswith("a\\r\\nb\\u202ec\\x9b1m")


def test_a_wide_terminal_shows_a_line_for_each_row() -> None:
    """Every cell stands below the name of its column, and nothing is wrapped."""
    lines = table_lines(COLUMNS, ROWS, (), 160)

    assert lines == [
        f"ENTRY  WHEN                  DIGEST{' ' * 67}BY, AND WHY",
        f"0      2026-11-23T09:00:41Z  {ONE}  ci",
        f"12     2026-11-24T09:00:41Z  {TWO}  ada: the first one had a wrong certificate in it",
    ]


def test_where_a_digest_does_not_fit_it_stands_below_its_row() -> None:
    """At 80 columns the other cells keep their columns, and long text is wrapped between words."""
    lines = table_lines(COLUMNS, ROWS, ("ENTRY", "WHEN"), 75)

    assert lines == [
        "ENTRY  WHEN                  BY, AND WHY",
        "0      2026-11-23T09:00:41Z  ci",
        f"    {ONE}",
        "12     2026-11-24T09:00:41Z  ada: the first one had a wrong certificate in",
        "                             it",
        f"    {TWO}",
    ]


def test_where_the_key_of_a_ledger_does_not_fit_it_stands_below_its_row() -> None:
    """A key is copied whole, so it is never broken; a cell without one stands at the same place."""
    key = f"localhost:5000+39a240d5+{'A' * 44}"
    lines = table_lines(
        ("REGISTRY", "SINCE", "KEY"), [("a:5000", "now", key), ("b:5000", "now", "ID 4b5b5f11")], (), 85
    )

    assert lines == [
        "REGISTRY  SINCE  KEY",
        f"a:5000    now    {key}",
        "b:5000    now    ID 4b5b5f11",
    ]
    assert table_lines(
        ("REGISTRY", "SINCE", "KEY"), [("a:5000", "now", key), ("b:5000", "now", "ID 4b5b5f11")], (), 84
    ) == [
        "REGISTRY  SINCE",
        "a:5000    now",
        f"    {key}",
        "b:5000    now",
        "    ID 4b5b5f11",
    ]


def test_two_digests_of_a_row_are_named_by_their_columns() -> None:
    """Below a row with two digests each digest has the name of its column."""
    lines = table_lines(("TAG", "HELD", "SERVED"), [("node:16", ONE, TWO)], (), 80)

    assert lines == ["TAG", "node:16", f"    held {ONE}", f"    served {TWO}"]


def test_columns_that_are_compared_stand_below_a_row_together() -> None:
    """If one of two columns that readers compare has a digest, both stand below the row, in order and with their names."""
    rows = [("web", "image", f"app:1@{ONE}", "app:2"), ("web", "command", '["a"]', '["b"]')]
    columns = ("SERVICE", "WHAT", "RELEASE 1", "RELEASE 2")

    assert table_lines(columns, rows, (), 80, columns[2:]) == [
        "SERVICE  WHAT",
        "web      image",
        f"    release 1 app:1@{ONE}",
        "    release 2 app:2",
        "web      command",
        '    release 1 ["a"]',
        '    release 2 ["b"]',
    ]


def test_a_narrow_terminal_shows_a_line_for_each_cell() -> None:
    """At 40 columns a digest is still in one piece, which the terminal wraps and a person can copy."""
    lines = table_lines(COLUMNS, ROWS, ("ENTRY", "WHEN"), 40)

    assert lines == [
        "ENTRY        0",
        "WHEN         2026-11-23T09:00:41Z",
        f"DIGEST       {ONE}",
        "BY, AND WHY  ci",
        "",
        "ENTRY        12",
        "WHEN         2026-11-24T09:00:41Z",
        f"DIGEST       {TWO}",
        "BY, AND WHY  ada: the first one had a",
        "             wrong certificate in it",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_wide_characters_count_as_two_columns(width: int) -> None:
    """A name in Chinese characters does not shift the columns after it."""
    lines = table_lines(("TAG", "BY"), [("1.4.2", "測試"), ("測試", "ci")], (), width)

    assert [line.rstrip() for line in lines] == ["TAG    BY", "1.4.2  測試", "測試   ci"]


cells = st.text(st.sampled_from("12/: 測"), max_size=60).map(lambda text: " ".join(text.split()))


@given(st.lists(st.tuples(cells, cells | st.just(ONE) | st.just(f"app@{TWO}"), cells), max_size=4), st.integers(1, 200))
def test_no_cell_loses_a_character_at_any_width(rows: list[tuple[str, str, str]], width: int) -> None:
    """The lines have every character of every cell as often as the rows have it, and a digest is on one line."""
    lines = table_lines(("A", "B", "C"), rows, (), width)
    digests = [row[1] for row in rows if "sha256" in row[1]]
    printed, given_cells = "".join(lines), "".join(cell for row in rows for cell in row)

    assert {char: printed.count(char) for char in "12/:測"} == {char: given_cells.count(char) for char in "12/:測"}
    assert all(any(digest in line for line in lines) for digest in digests)


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_an_image_reference_is_broken_at_a_slash_and_never_in_its_tag(width: int) -> None:
    """A reference that does not fit is broken after a `/`; its last part stands with the tag in one line, and a version too."""
    image = "registry.example.com:24164/department/team/application-with-a-long-name:1.4.2.1-alpine3.19"
    why = "1.4.2.1-alpine3.19 was deployed here before and failed; write it into the files"
    lines = table_lines(("SERVICE", "DO", "IMAGE", "WHY"), [("web", "nothing", image, why)], ("SERVICE", "DO"), width)
    words = [word for line in lines for word in line.split()]

    assert "".join(word for word in words if word in image and word not in why) == image
    assert "1.4.2.1-alpine3.19" in words


def test_a_name_that_does_not_fit_stands_below_its_row() -> None:
    """The name of an image is not broken, so that it can be copied: if it does not fit beside the others, it stands below."""
    rows = [("web", "localhost:5000/shop/app:1.4.2", "there is no newer version of the same form")]

    assert table_lines(("SERVICE", "IMAGE", "WHY"), rows, ("SERVICE",), 38) == [
        "SERVICE  WHY",
        "web      there is no newer version of",
        "         the same form",
        "    localhost:5000/shop/app:1.4.2",
    ]


def test_a_name_below_stands_before_its_digest() -> None:
    """Name and digest of an image stand below the row, in this order and without their columns' names."""
    digest = f"sha256:{'1' * 64}"
    name = "registry.example.com/customer-portal/backend:1.4.2-alpine3.19"
    columns, rows = ("SERVICE", "STATE", "IMAGE", "DIGEST"), [("web-frontend", "healthy", name, digest)]

    assert table_lines(columns, rows, ("SERVICE", "STATE", "DIGEST"), 80) == [
        "SERVICE       STATE",
        "web-frontend  healthy",
        f"    {name}",
        f"    {digest}",
    ]


@given(
    st.lists(st.text(st.sampled_from("abc.-12"), min_size=1, max_size=20), min_size=1, max_size=5),
    st.text(st.sampled_from("abc.-12"), min_size=1, max_size=60),
    st.integers(1, 120),
)
def test_a_name_with_its_tag_is_on_one_line_at_any_width(path: list[str], tag: str, width: int) -> None:
    """A reference in any column stands whole on one line at every width."""
    image = f"{'/'.join(path)}:{tag}"
    lines = table_lines(("A", "IMAGE", "C"), [("why " * 20, image, "words of a reason " * 3)], (), width)

    assert any(image in line for line in lines)
