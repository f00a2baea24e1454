"""Quiet times, in which nothing is left to do, taken out of the time axis.

Tasks that arrive close together are a burst: each is released before all of the burst so far, one
after the other from its latest release on, would be over. If the next release comes later than
that, some best schedule has ended the burst by then. From the burst's latest release on, whatever
follows a time in which the whole cluster idles can be moved to its beginning: nothing arrives
meanwhile, and later tasks only find GPUs, memory and the closed loop free earlier. So for
objectives that never fall when tasks end later, the time between that end and the next release can
be left out.
"""

from __future__ import annotations

import numpy as np

from lemix_opt.checks import IntArray
from lemix_opt.instance import Instance
from solvers.exact.data import TickData


def quiet_before(instance: Instance, data: TickData) -> IntArray:
    """Return the quiet ticks before every task's release, shape (T,).

    Examples
    --------
    >>> import numpy as np
    >>> from lemix_opt import Cluster, Costs, Instance, Workload
    >>> from solvers.exact.data import tick_data
    >>> work = Workload([0, 0, 0], [0.0, 0.001, 9.0], 1, 8)
    >>> costs = Costs(np.full((1, 3, 1), 0.005), 0.0, 0.0, 0.0)
    >>> instance = Instance(Cluster(1, 1, 1.0), work, costs)
    >>> quiet_before(instance, tick_data(instance, bound=True)).tolist()
    [0, 0, 8989]
    """
    training = instance.workload.is_training
    alone = data.forward.sum(axis=2) + 2 * data.hop.sum(axis=2)
    alone = alone + training * (data.backward.sum(axis=2) + data.update.sum(axis=1)[:, None])
    work = alone.max(axis=0, initial=0)
    order = np.argsort(data.release, kind="stable")
    release, quiet = data.release[order], np.zeros(instance.tasks, dtype=np.int64)
    removed = burst = over = 0
    for place, (i, arrival) in enumerate(zip(order.tolist(), release.tolist(), strict=True)):
        if place and arrival > over:
            removed += arrival - over
            burst = 0
        burst += int(work[i])
        over = arrival + burst
        quiet[i] = removed
    return quiet
