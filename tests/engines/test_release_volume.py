"""What is read from an engine's archive of the volume with the releases."""

from __future__ import annotations

import io
import tarfile

import pytest

from boltseal.engines.release_volume import files_in_archive

GIB = 2**30


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as writer:
        for member, content in members:
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    made.seek(0)
    return made


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def test_only_regular_files_are_read() -> None:
    """Links and devices in the volume are left out, whatever they name."""
    links = [(member(f"shop/{kind[0]}.0", kind, "/etc/passwd"), b"") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)]
    found = files_in_archive(archive((member("shop/1.0"), b"x"), *links, (member("shop/9.0", tarfile.CHRTYPE), b"")))

    assert found == {"1.0": b"x"}


def test_a_sparse_file_is_refused() -> None:
    """An archive of 2 KiB with a sparse file of 3 GiB is refused before its content is made up in memory."""
    header = bytearray(member("shop/1.0", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    for position, number in ((124, 512), (386, 3 * GIB - 512), (398, 512), (483, 3 * GIB)):
        header[position : position + 12] = b"%011o\0" % number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    file = io.BytesIO(bytes(header) + b"x" * 512 + bytes(1024))

    with pytest.raises(ValueError, match="sparse"):
        files_in_archive(file)
