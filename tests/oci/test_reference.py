"""Which names are valid, and how Docker completes references."""

import pytest

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import NameInvalid, Reference, Repository, Tag, TagInvalid

DIGEST = "sha256:" + "0a" * 32
IMAGE_ID = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"


@pytest.mark.parametrize("name", ["a", "0", "shop/app", "a/manifests/b", "a.b_c__d-e---f/x", "a/b/c/d/e/f", "a" * 255])
def test_names_of_the_grammar_are_repositories(name: str) -> None:
    """Lower-case parts, single separators inside them, any depth, 255 characters."""
    assert Repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "A",
        "a/B",
        ".a",
        "a.",
        "a..b",
        "a._b",
        "a___b",
        "-a",
        "a-",
        "_a",
        "a b",
        "a\n",
        "ä",
        "a" * 256,
        "a:b",
        "a@b",
        "%61",
        "a/../b",
        "٣",
    ],
)
def test_names_outside_the_grammar_are_refused(name: str) -> None:
    """Any other repository name gets NAME_INVALID, whatever it might be on a disk or in a URL."""
    with pytest.raises(NameInvalid):
        Repository(name)


@pytest.mark.parametrize("tag", ["1", "1.4.2", "_", "A", "v1-rc.1_x", "a" * 128])
def test_tags_of_the_grammar_are_tags(tag: str) -> None:
    """A word character first, then up to 127 of word characters, dots and dashes."""
    assert Tag(tag) == tag


@pytest.mark.parametrize("tag", ["", ".", "-1", ".1", "a" * 129, "a b", "a\n", "a/b", "a:b", "é", "٣", "a+b"])
def test_tags_outside_the_grammar_are_refused(tag: str) -> None:
    """Any other text is not a tag."""
    with pytest.raises(TagInvalid):
        Tag(tag)


@pytest.mark.parametrize(
    ("typed", "registry", "repository", "familiar"),
    [
        ("ubuntu", "docker.io", "library/ubuntu", "ubuntu"),
        ("library/ubuntu", "docker.io", "library/ubuntu", "ubuntu"),
        ("docker.io/ubuntu", "docker.io", "library/ubuntu", "ubuntu"),
        ("index.docker.io/ubuntu", "docker.io", "library/ubuntu", "ubuntu"),
        ("index.docker.io/ouruser/app", "docker.io", "ouruser/app", "ouruser/app"),
        ("ouruser/sinatra", "docker.io", "ouruser/sinatra", "ouruser/sinatra"),
        ("docker.io/library/a/b", "docker.io", "library/a/b", "library/a/b"),
        ("test_com/foo", "docker.io", "test_com/foo", "test_com/foo"),
        ("localhost/app", "localhost", "app", "localhost/app"),
        ("localhost:5000/shop/app", "localhost:5000", "shop/app", "localhost:5000/shop/app"),
        ("example.com/app", "example.com", "app", "example.com/app"),
        ("Foo/bar", "Foo", "bar", "Foo/bar"),
        ("EXAMPLE.com/bar", "EXAMPLE.com", "bar", "EXAMPLE.com/bar"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000", "a/b", "127.0.0.1:5000/a/b"),
        ("[fc00::1]:5000/docker", "[fc00::1]:5000", "docker", "[fc00::1]:5000/docker"),
        ("[::1]/docker", "[::1]", "docker", "[::1]/docker"),
        ("xn--n3h.com:18080/foo", "xn--n3h.com:18080", "foo", "xn--n3h.com:18080/foo"),
        ("192.168.0.1", "docker.io", "library/192.168.0.1", "192.168.0.1"),
        (f"docker.io/{IMAGE_ID}", "docker.io", f"library/{IMAGE_ID}", f"library/{IMAGE_ID}"),
        ("docker.io/foo.bar/baz", "docker.io", "foo.bar/baz", "docker.io/foo.bar/baz"),
        ("docker.io/localhost/baz", "docker.io", "localhost/baz", "docker.io/localhost/baz"),
    ],
)
def test_references_are_completed_as_docker_does(typed: str, registry: str, repository: str, familiar: str) -> None:
    """A completed reference names the same image in every tool, and its short form is parsed as the same reference."""
    reference = Reference.parse(typed)

    assert (reference.registry, reference.repository) == (registry, repository)
    assert reference.name == str(reference) == f"{registry}/{repository}"
    assert reference.familiar() == familiar


def test_tag_and_digest_are_both_kept() -> None:
    """`name:tag@digest` keeps the tag for people, and the digest, which decides."""
    reference = Reference.parse(f"busybox:latest@{DIGEST}")

    assert reference.tag == "latest"
    assert reference.digest == Digest.parse(DIGEST)
    assert str(reference) == f"docker.io/library/busybox:latest@{DIGEST}"
    assert reference.familiar() == f"busybox:latest@{DIGEST}"


def test_a_number_after_a_single_name_is_a_tag_and_not_a_port() -> None:
    """A reference without a slash has no host, so that the text after its colon is a tag."""
    reference = Reference.parse("192.168.0.1:80")

    assert (reference.repository, reference.tag) == ("library/192.168.0.1", "80")


def test_a_repository_named_like_an_algorithm_is_never_shortened_to_an_image_id() -> None:
    """The repository library/sha256 of Docker Hub is written with its registry where the short text is an image ID."""
    whole = f"docker.io/library/sha256:{IMAGE_ID}"

    assert Reference.parse(whole).familiar() == f"library/sha256:{IMAGE_ID}"
    assert Reference.parse(Reference.parse(whole).familiar()) == Reference.parse(whole)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "is missing"),
        (":tag", "is missing"),
        ("docker.io/", "is missing"),
        ("https://github.com/docker/docker", "has no scheme"),
        (IMAGE_ID, "is an image ID"),
        (f"sha256:{IMAGE_ID}", "is an image ID"),
        ("docker/Docker", 'must be lower-case; try "docker/docker"'),
        ("Docker", 'must be lower-case; try "docker"'),
        ("-docker/docker", "not a repository name"),
        ("-docker.io/docker", "not a registry"),
        ("a_b.c/foo", "not a registry"),
        ("docker///docker", "not a repository name"),
        ("[fc00::1]", "not a repository name"),
        ("[fc00::1]:5000", "not a repository name"),
        ("fc00::1:5000/debian", "not a registry"),
        ("[fe80::1%eth0]:5000/debian", "not a registry"),
        ("[2001:db8:3:4::192.0.2.33]:5000/debian", "not a registry"),
        ("example.com:port/a", "not a registry"),
        ("app:", "not a tag"),
        ("app:a:b", "not a tag"),
        ("app@", "not a digest"),
        ("app@latest", "not a digest"),
        (f"app@{DIGEST}@{DIGEST}", "64 lower-case"),
        ("app ", "not a repository name"),
        (" app", "not a repository name"),
        ("app\n", "not a repository name"),
        ("localhost/" + "a" * 256, "at most 255"),
    ],
)
def test_a_malformed_reference_is_refused(typed: str, says: str) -> None:
    """The error for a malformed reference is one sentence that quotes the input."""
    with pytest.raises(Invalid, match=says):
        Reference.parse(typed)


@pytest.mark.parametrize(
    ("registry", "repository"), [("", "a/b"), ("a/b", "c"), ("index.docker.io", "a/b"), ("docker.io", "ubuntu")]
)
def test_a_reference_built_from_parts_is_complete_or_refused(registry: str, repository: str) -> None:
    """Parts that Docker would complete or rename are refused as a reference."""
    with pytest.raises(NameInvalid):
        Reference(registry, Repository(repository))


@pytest.mark.parametrize(
    ("typed", "complete", "by_tag"),
    [
        ("shop/app", "shop/app:latest", "shop/app:latest"),
        ("shop/app:1.4.2", "shop/app:1.4.2", "shop/app:1.4.2"),
        (f"shop/app@{DIGEST}", f"shop/app@{DIGEST}", "shop/app:latest"),
        (f"shop/app:1.4.2@{DIGEST}", f"shop/app:1.4.2@{DIGEST}", "shop/app:1.4.2"),
    ],
)
def test_defaults_are_added_as_by_docker(typed: str, complete: str, by_tag: str) -> None:
    """A reference without tag and digest gets `latest`, as in Docker."""
    reference = Reference.parse(typed)

    assert reference.complete == Reference.parse(complete)
    assert reference.by_tag == Reference.parse(by_tag)


@pytest.mark.parametrize("digest", ["sha256:8c5a9f51ffcc", "8c5a9f51ffcc", f"sha512:{'a' * 127}"])
def test_the_beginning_of_a_digest_is_refused_with_the_commands_that_print_all_of_it(digest: str) -> None:
    """An attacker can make another image whose digest begins the same."""
    with pytest.raises(DigestInvalid, match=r"is the beginning of a digest.*`boltseal history localhost:5000/app`"):
        Reference.parse(f"localhost:5000/app@{digest}")
