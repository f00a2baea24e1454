"""Where the measured data lie, for tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
# An empty variable names no folder.
DATA = Path(os.environ.get("LEMIX_DATA") or BESIDE)
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the measured data are neither in $LEMIX_DATA nor in ../shared/data"
)
