"""Unpacking a data archive, trusting none of its names: nothing is written outside, links are refused."""

import hashlib
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from taskloom.errors import DataError
from taskloom.storage import staged_folder

__all__ = ["is_archive", "unpack"]

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Return whether the name is that of a .zip or .tar archive."""
    return path.name.lower().endswith((".zip", *TAR_ENDINGS))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack `archive` under `folder`, once for each content, and return where.

    Raises:
        DataError: The archive is damaged, or a member is a link, a device or lies outside.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    unpacked = folder / digest[:32]
    if not unpacked.is_dir():
        try:
            if archive.name.lower().endswith(".zip"):
                _unpack_zip(archive, unpacked)
            else:
                _unpack_tar(archive, unpacked)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError) as failure:
            raise DataError(f"{archive}: not a readable archive ({failure})") from None
    return unpacked


def _unpack_zip(archive: Path, unpacked: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            # The upper half of the attributes is the Unix mode, 0 if the archive was made elsewhere.
            file_type = stat.S_IFMT(member.external_attr >> 16)
            if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, member.filename, "is a link or a device")
            _require_inside(archive, member.filename)
        with staged_folder(unpacked) as partial:
            content.extractall(partial)


def _unpack_tar(archive: Path, unpacked: Path) -> None:
    with tarfile.open(archive) as content:
        for member in content.getmembers():
            if not (member.isfile() or member.isdir()):
                raise _refusal(archive, member.name, "is a link or a device")
            _require_inside(archive, member.name)
        with staged_folder(unpacked) as partial:
            if hasattr(tarfile, "data_filter"):
                content.extractall(partial, filter="data")
            else:  # before Python 3.11.4; what the filter refuses was refused above
                content.extractall(partial)


def _require_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise _refusal(archive, name, "lies outside of the archive's folder")


def _refusal(archive: Path, name: str, reason: str) -> DataError:
    return DataError(f"{archive}: the member '{name}' {reason}; nothing was unpacked, pack the archive without it")
