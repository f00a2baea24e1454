"""How many examples property tests run: few by default, thousands at night."""

from __future__ import annotations

import os

from hypothesis import settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
settings.register_profile("nightly", max_examples=3000, deadline=None)


def examples(usual: int) -> int:
    """Return the usual number of examples of a test, or the profile's if that is "nightly"."""
    return settings.get_profile("nightly").max_examples if PROFILE == "nightly" else usual
