"""A pin never combines an image with another tag, whatever values the variables get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.project.references.interpolation import Dialect, InterpolationFailed, fill
from tests.project.projects import found_in, pinned, put, written

NAMES = ("A", "B", "C")
parts = st.recursive(
    st.sampled_from(["1", "2.4", "-alpine", "v"]) | st.sampled_from([f"${{{name}}}" for name in NAMES]),
    lambda inner: st.builds(
        lambda name, operator, text: f"${{{name}{operator}{text}}}",
        st.sampled_from(NAMES),
        st.sampled_from([":-", "-", ":+", "+"]),
        inner,
    ),
    max_leaves=4,
)
tags = st.lists(parts, min_size=1, max_size=3).map("".join)
texts = st.builds(
    lambda name, tag: f"{name}:{tag}", st.sampled_from(["shop/app", "${C:-shop}/app", "$C/app"]), tags
) | st.builds(lambda name, tag: f"${{{name}:-shop/app:{tag}}}", st.sampled_from(NAMES), tags)
values = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "3", "x.y"]), max_size=3)


def filled(text: str, values: Mapping[str, str]) -> str | None:
    try:
        return fill(text, values.get, Dialect.COMPOSE, strict=False).text
    except InterpolationFailed:
        return None


def tag_of(text: str) -> str:
    return text.partition("@")[0].rpartition("/")[2].partition(":")[2]


@settings(max_examples=settings().max_examples * 3 // 2)
@given(texts, values, values)
def test_no_value_of_a_variable_combines_a_digest_with_another_tag(
    text: str, env: dict[str, str], shell: dict[str, str]
) -> None:
    """No value of a variable combines a digest with another tag. `env`: the project's `.env`; `shell`: run-time
    variables."""
    lines = "".join(f"{name}={value}\n" for name, value in env.items())
    compose = yaml.safe_dump({"services": {"web": {"image": text}}})
    with TemporaryDirectory() as folder:
        root = written(Path(folder), {"compose.yml": compose, ".env": lines})
        (image_ref,) = found_in(root).image_refs
        put(root, pinned(root))
        after = yaml.safe_load((root / "compose.yml").read_text())["services"]["web"]["image"]
        env_after = dict(line.split("=", 1) for line in (root / ".env").read_text().splitlines())
    reference = filled(after, {**env_after, **shell}) or ""

    if image_ref.resolved is not None and "@" in reference:
        assert tag_of(reference) == (image_ref.resolved.tag or "")
    if image_ref.resolved is not None and image_ref.edit_range is not None:
        assert "@sha256:" in (filled(after, env_after) or "")
