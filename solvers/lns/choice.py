"""Which neighbourhood comes next, how large it is, and how long its window may take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIZE = 7
"""Tasks freed at first: small windows that are searched to the end gain more than large ones."""
LEAST, MOST = 2, 40
MEMORY = 0.8
"""Part of a neighbourhood's record that is kept at each use."""
FLOOR = 0.05
"""Share of the best weight that every neighbourhood has at least."""
PATIENCE, DOUBLINGS = 15, 3
"""Windows without gain after which neighbourhoods are drawn alike and limits double, and how often
they do so at most."""
QUICK = 0.25
"""Part of a window's limit within which a proof counts as quick."""


class Choice:
    """Weights by what a neighbourhood gained per second, and a size of its own for each.

    Parameters
    ----------
    names : sequence of str
        Neighbourhoods.
    tasks : int
        Tasks of the instance.
    """

    def __init__(self, names: Sequence[str], tasks: int) -> None:
        self.names = tuple(names)
        self.most = min(MOST, tasks)
        self.size = dict.fromkeys(self.names, min(SIZE, self.most))
        self.gain = dict.fromkeys(self.names, 0.0)
        self.spent = dict.fromkeys(self.names, 0.0)
        self.idle = 0

    @property
    def patience(self) -> int:
        """What the limit of a window is multiplied by: short ones first, while these gain."""
        return 1 << min(self.idle // PATIENCE, DOUBLINGS)

    def draw(self, rng: np.random.Generator) -> str:
        """Return the next neighbourhood; those never tried come first."""
        for name in self.names:
            if not self.spent[name]:
                return name
        rate = np.array([self.gain[name] / self.spent[name] for name in self.names])
        weight = np.maximum(rate, FLOOR * rate.max())
        if self.idle >= PATIENCE or not rate.any():
            weight = np.ones(rate.size)
        return self.names[int(rng.choice(rate.size, p=weight / weight.sum()))]

    def learn(self, name: str, gain: float, spent: float, part: float, *, proven: bool) -> None:
        """Note what a window brought.

        Parameters
        ----------
        gain, spent : float
            Seconds of the objective, and of the search.
        part : float
            Of the window's limit that was used.
        proven : bool
            Whether the window was searched to the end.
        """
        self.idle = 0 if gain > 0 else self.idle + 1
        self.gain[name] = MEMORY * self.gain[name] + max(gain, 0.0)
        self.spent[name] = MEMORY * self.spent[name] + spent
        if not proven:
            self.size[name] = max(self.size[name] - 1, min(LEAST, self.most))
        elif gain <= 0 and part < QUICK:
            self.size[name] = min(self.size[name] + 1, self.most)
