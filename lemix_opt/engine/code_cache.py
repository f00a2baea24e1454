"""Where machine code is kept: private folders of which no damaged or half-written one is loaded.

numba keeps compiled functions as pickles, which may run anything when they are loaded. They are
therefore read only from folders that nobody else may write to, and only as they were written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

from platformdirs import user_cache_path

CACHE_FOLDER_VARIABLE = "LEMIX_CACHE"
SEAL = "sha256.json"
"""File with the digests of all others in the folder of a function."""
ABANDONED_S = 86_400.0
"""Seconds after which what a killed process left half written is taken away."""
OTHERS_WRITE = 0o022

LOG = logging.getLogger("lemix_opt")


def private_folder(digest: str) -> Path | None:
    """Return the folder for machine code of some sources, or None if none can be trusted.

    Parameters
    ----------
    digest : str
        Names the state of the sources.
    """
    base = os.environ.get(CACHE_FOLDER_VARIABLE)
    root = Path(base) if base else user_cache_path("lemix-opt", appauthor=False)
    folder = root / "compiled" / digest
    try:
        for each in (root, root / "compiled", folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            trouble = _others_may_write(each)
            if trouble:
                _complain(f"{each}: {trouble}")
                return None
    except OSError as error:
        _complain(f"{folder}: {error.strerror or error}")
        return None
    return folder


def _others_may_write(folder: Path) -> str:
    """Say why someone else may have written to a folder; "" if nobody may."""
    if not hasattr(os, "getuid"):
        return ""
    found = folder.stat()
    if found.st_uid != os.getuid():
        return f"belongs to user {found.st_uid}"
    return "others may write to it" if found.st_mode & OTHERS_WRITE else ""


def _complain(text: str) -> None:
    LOG.warning(
        "machine code is not kept, every process compiles anew: %s; expected a folder of your own "
        "that only you may write to (chmod go-w, or another one in $%s)",
        text,
        CACHE_FOLDER_VARIABLE,
    )


def intact(folder: Path) -> bool:
    """Whether a function's folder holds exactly what was written to it."""
    try:
        wanted = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return bool(wanted == _digests(folder))
    except (OSError, ValueError, RecursionError):
        return False


def seal(folder: Path) -> None:
    """Write down the digests of a function's files."""
    (folder / SEAL).write_text(json.dumps(_digests(folder)), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != SEAL)
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
    }


def draft(kept: Path) -> Path:
    """Return a fresh folder beside the one that it will become when it is whole."""
    for left in kept.parent.glob(f".{kept.name}-*"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            discard(left)
    return Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))


def publish(written: Path, kept: Path) -> None:
    """Put a written folder in place of what is there, if anything; of several writers one wins."""
    seal(written)
    try:
        discard(kept)
        written.rename(kept)
    except OSError:
        discard(written)


def discard(folder: Path) -> None:
    """Take a folder away, or a file in its place, as far as possible."""
    if folder.is_file() or folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
