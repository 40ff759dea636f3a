"""Whether a change of a base reaches an image: states of files, packages and settings, and the result of all."""

from __future__ import annotations

import pytest

from boltseal.oci.layer_tree import FileKind, FileState
from boltseal.policy.base_change_reach import (
    ChangedParts,
    ChangedSetting,
    CopyTraces,
    PartState,
    Reach,
    file_state,
    judge_reach,
    package_state,
    setting_state,
    setting_trace,
)

FORMER, NEW, REPLACED, GONE, UNKNOWN = PartState


def regular(content: str, mode: int = 0o644) -> FileState:
    return FileState(FileKind.REGULAR, mode, (0, 0), content.encode())


WAS, NOW, OWN = regular("was"), regular("now"), regular("own")


@pytest.mark.parametrize(
    ("was", "now", "own", "state"),
    [
        (WAS, NOW, WAS, FORMER),
        (WAS, NOW, regular("was", 0o700), FORMER),
        (WAS, NOW, NOW, NEW),
        (WAS, NOW, regular("now", 0o700), NEW),
        (WAS, NOW, OWN, REPLACED),
        (WAS, NOW, None, GONE),
        (WAS, regular("was", 0o600), WAS, FORMER),
        (WAS, regular("was", 0o600), regular("was", 0o600), NEW),
        (WAS, regular("was", 0o600), regular("was", 0o777), REPLACED),
        (WAS, regular("was", 0o600), regular("own", 0o600), REPLACED),
        (WAS, regular("now", 0o600), regular("now"), FORMER),
        (WAS, None, WAS, FORMER),
        (WAS, None, OWN, REPLACED),
        (WAS, None, None, NEW),
        (None, NOW, None, FORMER),
        (None, NOW, NOW, NEW),
        (None, NOW, OWN, REPLACED),
    ],
)
def test_a_changed_file_is_looked_up_by_content_first(
    was: FileState | None, now: FileState | None, own: FileState | None, state: PartState
) -> None:
    """A file with the former content is a former one whatever its mode; with other content it is replaced."""
    assert file_state(was, now, own, inherits=True) is state


def test_a_file_that_only_the_new_base_has_is_missing_only_where_it_would_be_inherited() -> None:
    """An image whose own layers delete the folder of a new file would not have that file after a rebuild either."""
    assert file_state(None, NOW, None, inherits=False) is GONE


@pytest.mark.parametrize(
    ("kind", "was", "now", "own", "state"),
    [
        ("deb", "3.0.1", "3.0.2", "3.0.1", FORMER),
        ("deb", "3.0.1", "3.0.2", "3.0.2", NEW),
        ("deb", "3.0.1", "3.0.2", "3.0.10", NEW),
        ("deb", "3.0.1", "3.0.3", "3.0.2", FORMER),
        ("deb", "3.0.2", "3.0.1", "3.0.3", UNKNOWN),
        ("deb", "1, 2", "3", "2", UNKNOWN),
        ("apk", "3.0.1", "3.0.2", "3.0.3", UNKNOWN),
        ("deb", "3.0.1", "3.0.2", "", GONE),
        ("deb", "", "1", "", FORMER),
        ("deb", "", "1", "2", REPLACED),
        ("deb", "1", "", "1", FORMER),
        ("deb", "1", "", "2", REPLACED),
        ("deb", "1", "", "", NEW),
    ],
)
def test_a_changed_package_is_looked_up_by_version(kind: str, was: str, now: str, own: str, state: PartState) -> None:
    """A version older than the new base's is a former one, a newer one is not; of other kinds than Debian's that is unknown."""
    assert package_state(kind, was, now, own, inherits=True) is state


def test_a_package_that_only_the_new_base_has_is_not_missing_in_an_image_of_copied_files() -> None:
    """An image that does not begin with the base's layers lacks a new package, also after a rebuild."""
    assert package_state("deb", "", "1", "", inherits=False) is GONE


def test_a_setting_is_former_new_or_replaced() -> None:
    """A changed setting is former if the image has the former value, and replaced if it has its own."""
    assert [setting_state("16.1", "16.2", own) for own in ("16.1", "16.2", "17", "")] == [
        FORMER,
        NEW,
        REPLACED,
        REPLACED,
    ]


@pytest.mark.parametrize(
    ("parts", "reach", "words"),
    [
        (ChangedParts([], [FORMER, NEW], [NEW]), Reach.REACHES, "1 of 2 changed packages as before"),
        (ChangedParts([FORMER], [], None, files_reason="x"), Reach.REACHES, "1 of 1 changed settings"),
        (ChangedParts([], None, [FORMER, FORMER]), Reach.REACHES, "2 of 2 changed files"),
        (ChangedParts([], [NEW], [NEW, REPLACED, GONE]), Reach.DOES_NOT, "none of the changed"),
        (ChangedParts([REPLACED], [], []), Reach.DOES_NOT, "none of the changed"),
        (ChangedParts([], [NEW], None, files_reason="too large"), Reach.UNKNOWN, "too large"),
        (ChangedParts([], [UNKNOWN], [REPLACED]), Reach.UNKNOWN, "other versions"),
        (ChangedParts([], None, [REPLACED], "it is of an older rpm"), Reach.UNKNOWN, "it is of an older rpm"),
        (ChangedParts([], None, [NEW, GONE], "it is of an older rpm"), Reach.DOES_NOT, ""),
        (ChangedParts([], None, [REPLACED], "none", no_packages=True), Reach.DOES_NOT, ""),
        (ChangedParts([], [], [GONE], unexplained=True), Reach.UNKNOWN, "does not begin with the layers"),
        (
            ChangedParts([], [NEW], [NEW], traces=CopyTraces(copies=1, copy="/opt/x")),
            Reach.UNKNOWN,
            "one of its own files may be a copy of a changed one, which the new base has in another place: /opt/x",
        ),
        (ChangedParts([], [], [NEW], traces=CopyTraces(copies=2, copy="/x")), Reach.UNKNOWN, "2 of its own files may"),
        (
            ChangedParts([], None, [NEW], no_packages=True, traces=CopyTraces(added="/usr/x")),
            Reach.UNKNOWN,
            "the new base adds files that its own build may copy, such as /usr/x",
        ),
        (ChangedParts([], [], [NEW], traces=CopyTraces(folder="/opt")), Reach.UNKNOWN, "a folder /opt"),
        (ChangedParts([NEW], [], [], traces=CopyTraces(setting="its ENV X")), Reach.UNKNOWN, "its ENV X"),
        (ChangedParts([], [FORMER], [], traces=CopyTraces(copies=1)), Reach.REACHES, "1 of 1 changed packages"),
        (ChangedParts([], [], []), Reach.UNKNOWN, "no package, file or setting differs"),
    ],
)
def test_one_former_part_reaches_and_a_doubt_is_no_result(parts: ChangedParts, reach: Reach, words: str) -> None:
    """One former part is enough for `reaches`; `does not reach` needs all parts, and what could not be read is doubt."""
    found, reason = judge_reach(parts)

    assert found is reach
    assert words in reason


@pytest.mark.parametrize(
    ("changed", "own", "trace"),
    [
        ([ChangedSetting("ENV V", "1.1", "1.2", "9")], {"ENV V": "9"}, ""),
        ([ChangedSetting("ENV V", "1.1", "1.2", "1.2")], {"ENV X": "x"}, ""),
        ([ChangedSetting("ENV V", "1.1", "1.2", "v1.1")], {}, "its ENV V may contain the former value of ENV V"),
        (
            [ChangedSetting("ENV V", "1.1", "1.2", "9")],
            {"ENV V": "9", "WORKDIR": "/app-1.1"},
            "its WORKDIR may contain the former value of ENV V",
        ),
        ([ChangedSetting("ENV V", "1.1", "1.2", "1.2")], {"CMD": "run 1.1"}, ""),
        ([ChangedSetting("ENV V", "", "1", "9")], {}, "the new base adds ENV V, which its own build may use"),
        ([ChangedSetting("ENV V", "1", "", "")], {"ENV X": "2"}, ""),
        ([ChangedSetting("ENTRYPOINT", "", "run", "own")], {}, ""),
        ([ChangedSetting("CMD", "a", "b", "c")], {"ENV X": "a"}, ""),
        ([ChangedSetting("WORKDIR", "/a", "/b", "/c")], {}, "its own build may have used the former WORKDIR"),
        ([ChangedSetting("ONBUILD", "", "COPY . /", "")], {}, ""),
        (
            [ChangedSetting("ONBUILD", "COPY . /a", "COPY . /b", "")],
            {},
            "its own build may have used the former ONBUILD",
        ),
    ],
)
def test_a_setting_may_be_a_trace_of_a_changed_one(
    changed: list[ChangedSetting], own: dict[str, str], trace: str
) -> None:
    """A variable can be expanded in other settings, and steps of a build run with the settings of its base."""
    assert setting_trace(changed, own) == trace
