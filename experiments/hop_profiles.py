"""Measured times of transfers between two GPUs, by kind of link."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instances import load
from lemix_opt.checks import FloatArray
from lemix_opt.errors import unknown
from lemix_opt.table import Table
from predictors.errors_by_split import SplitError, held_out_errors, random_fifths
from predictors.hops import HopModel

PIECES = {"within": 1, "across": 2}
"""Pieces of the hop model by link: a network changes protocol with the size of a message."""
DEVICES_PER_NODE = {"within": 2, "across": 1}
"""GPUs of one machine that took part, by link: a pair within a machine or one on each of two."""


@dataclass(frozen=True, eq=False)
class HopProfile:
    """Measured send/receive times of one kind of link.

    Parameters
    ----------
    link : str
        Kind of link.
    sent_bytes : ndarray, shape (R,)
        Size of the message.
    seconds : ndarray, shape (R,)
        Median of the repeats of each size.
    source : str
        Where the runs come from.
    sha256 : str
        Hash of the file.
    """

    link: str
    sent_bytes: FloatArray
    seconds: FloatArray
    source: str
    sha256: str


def read_hop_profile(link: str) -> HopProfile:
    """Read the transfers over one kind of link between two A100 out of Vidur's table.

    Raises
    ------
    UnknownNameError
        For a link that was not measured.
    """
    return pick_link(load("vidur_send_recv_a100"), link)


def pick_link(table: Table, link: str) -> HopProfile:
    """Pick the transfers over one kind of link out of a table."""
    if link not in DEVICES_PER_NODE:
        raise unknown("link", link, DEVICES_PER_NODE)
    rows = table.where(table["devices_per_node"] == DEVICES_PER_NODE[link])
    return HopProfile(
        link,
        rows["size"].astype(np.float64),
        rows["time_stats.send_recv.median"] / 1e3,
        f"{table.name}: {table.source}",
        table.sha256,
    )


def hop_errors(profile: HopProfile, coverage: float = 0.9) -> list[SplitError]:
    """Errors and coverage of a hop model: a random fifth, the largest half and three quarters.

    Parameters
    ----------
    profile : HopProfile
        Measured transfers over one kind of link.
    coverage : float, default 0.9
        Of the intervals whose share of held-out rows is counted.
    """
    X = profile.sent_bytes[:, None]
    splits = {"random fifth": random_fifths(X)}
    for part in (0.5, 0.25):
        limit = float(np.quantile(profile.sent_bytes, part))
        splits[f"bytes > {limit:.0f}"] = [profile.sent_bytes <= limit]
    model = HopModel(PIECES[profile.link])
    return held_out_errors(model, X, profile.seconds, splits, coverage=coverage)
