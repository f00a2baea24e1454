"""Numbers that kernel and policies exchange: events and answers."""

from __future__ import annotations

EVENTS = ("assign", "start", "end", "drop")
BATCH = "batch"
"""What a policy in Python names among its events to be told the running batches."""
SEES_ASSIGN, SEES_START, SEES_END, SEES_DROP = range(len(EVENTS))

# Answers to "where does this task go?" beside a node's number.
DEFER_INFERENCE, DEFER_INFERENCE_YIELD = -1, -2
DEFER_TIME, DEFER_TIME_YIELD = -3, -4
ASK = -5

# What the kernel tells its driver instead of a task to decide.
TOLD_DROP, TOLD_BAD_NODE, TOLD_BAD_TIME, TOLD_FULL = -1, -2, -3, -4
TOLD_ITERATIONS, TOLD_PAUSE, TOLD_ENDLESS = -5, -6, -7

PAUSE_ROUNDS = 1 << 20
"""Rounds of the event loop, a power of two, between two moments at which Ctrl-C is heard."""
STUCK_DEFERRALS, ENDLESS_DEFERRALS = 1_000_000, 1 << 28
"""Deferrals in a row that end a run: with nothing else to come, and beside what still runs."""

EVENT_FIELDS = 7
"""Numbers per recorded event: kind, time, task, node, phase, stage, bytes."""
