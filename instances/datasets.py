"""Public datasets by name: where a file lies, what it must be, and how to get it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from instances.readers import READERS, RECORDINGS
from lemix_opt.errors import DatasetError, UnsupportedError, unknown
from lemix_opt.recording import Recording
from lemix_opt.table import Table

VARIABLE = "LEMIX_DATA"
"""Environment variable with the folder that is looked in first."""


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One public file.

    Parameters
    ----------
    file : str
        Path below the data folder.
    bytes : int
        Size.
    sha256 : str
        Hash of the content.
    licence : str
        Licence of the source.
    address : str, optional
        Where a byte-identical file can be downloaded.
    derived_from, recipe : str, optional
        Public origin of a derived file, and how it is made from it.
    reader : str, optional
        Name in the registry of readers.
    """

    file: str
    bytes: int
    sha256: str
    licence: str
    address: str = ""
    derived_from: str = ""
    recipe: str = ""
    reader: str = ""


@dataclass(frozen=True)
class Found:
    """A file whose hash was checked.

    Parameters
    ----------
    path : Path
        The file.
    where : str
        ``$LEMIX_DATA``, ``cache`` or ``downloaded``.
    """

    path: Path
    where: str


@cache
def datasets() -> Mapping[str, Dataset]:
    """All known datasets by name."""
    content = (resources.files("instances") / "datasets.json").read_bytes()
    return msgspec.json.decode(content, type=dict[str, Dataset])


def dataset(name: str) -> Dataset:
    """Return the dataset called `name`; an unknown name raises `UnknownNameError`."""
    known = datasets()
    if name not in known:
        raise unknown("dataset", name, known)
    return known[name]


def cache_folder() -> Path:
    """Folder of this user in which downloads are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("lemix-opt")) / "data"


def _checked(path: Path, wanted: Dataset) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wanted.sha256:
        raise DatasetError(
            f"SHA-256 {digest[:12]}…, {path.stat().st_size} bytes",
            where=str(path),
            expected=f"{wanted.sha256[:12]}…, {wanted.bytes} bytes",
            hint="Remove the file, or give another file to its reader directly",
        )
    return path


def locate(wanted: Dataset) -> Found | None:
    """Look in ``$LEMIX_DATA`` and in the cache, without downloading.

    Raises
    ------
    DatasetError
        If a file is there but is not the one meant.
    """
    places = [("cache", cache_folder())]
    if os.environ.get(VARIABLE):
        places.insert(0, (f"${VARIABLE}", Path(os.environ[VARIABLE])))
    for where, folder in places:
        for path in (folder / wanted.file, folder / Path(wanted.file).name):
            if path.is_file():
                return Found(_checked(path, wanted), where)
    return None


def fetch(wanted: Dataset) -> Found:
    """Return the file from ``$LEMIX_DATA``, from the cache, or downloaded into the cache.

    Raises
    ------
    DatasetError
        If it is nowhere and cannot be downloaded, or is not the one meant.
    """
    found = locate(wanted)
    if found is not None:
        return found
    if not wanted.address:
        raise DatasetError(
            f"{wanted.file} is not in ${VARIABLE} or the cache and has no public address",
            hint=f"Build it from {wanted.derived_from} ({wanted.recipe}), put it below the folder "
            f"that ${VARIABLE} names, and its SHA-256 will be checked",
        )
    return Found(_download(wanted), "downloaded")


def _download(wanted: Dataset) -> Path:
    import pooch
    import requests

    target = cache_folder() / wanted.file
    try:
        pooch.retrieve(
            wanted.address,
            known_hash=f"sha256:{wanted.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=30),
        )
    except (OSError, requests.RequestException) as error:
        reason = type(error).__name__
        raise DatasetError(
            f"{wanted.file} is missing and {wanted.address} cannot be reached ({reason})",
            hint=f"Download it elsewhere and set {VARIABLE} to the folder that holds it",
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{wanted.address} does not hold the file that was published",
            expected=f"SHA-256 {wanted.sha256[:12]}…",
            hint=f"Find {wanted.file} elsewhere and set {VARIABLE} to its folder",
        ) from error
    return target


def load(name: str) -> Table:
    """Read a dataset by name, downloading it when it is missing.

    Raises
    ------
    UnknownNameError
        If there is no dataset of that name.
    DatasetError
        If its file cannot be had.
    FileFormatError
        If a cell is not what the dataset's documentation says.
    """
    wanted = dataset(name)
    if not wanted.reader:
        readable = sorted(n for n, d in datasets().items() if d.reader)
        raise UnsupportedError(f"dataset {name!r} has no reader yet", expected=", ".join(readable))
    if wanted.reader in RECORDINGS:
        raise UnsupportedError(
            f"dataset {name!r} is a recording",
            expected="a table",
            hint="Read it with instances.datasets.load_recording",
        )
    found = READERS.create(wanted.reader, path=fetch(wanted).path)
    assert isinstance(found, Table)
    return found


def load_recording(name: str) -> Recording:
    """Read a recorded run by the name of its dataset, downloading it when it is missing.

    Raises
    ------
    UnknownNameError
        If there is no dataset of that name.
    DatasetError
        If its file cannot be had.
    UnsupportedError
        If it is no recording, or has no reader.
    FileFormatError
        If its content is not what its reader expects.
    """
    wanted = dataset(name)
    if wanted.reader not in RECORDINGS:
        known = sorted(n for n, d in datasets().items() if d.reader in RECORDINGS)
        raise UnsupportedError(f"dataset {name!r} is no recording", expected=", ".join(known))
    found = READERS.create(wanted.reader, path=fetch(wanted).path)
    assert isinstance(found, Recording)
    return found
