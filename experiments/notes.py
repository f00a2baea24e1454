"""What has to be said about a schedule beside its numbers: broken rules, undone tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lemix_opt.beyond import beyond_exact_model
from lemix_opt.costs import Costs
from lemix_opt.end_reasons import end_reasons, reasons_text
from lemix_opt.instance import Instance
from lemix_opt.schedule import Schedule
from lemix_opt.validation.violation import Violation

NOTES = {
    "broken": "breaks a rule",
    "not_done": "not done",
    "outside": "",
}
"""Columns of `notes_of`, and how their texts begin where they are printed."""


def broken_text(violations: Iterable[Violation]) -> str:
    """Return the first violation of every rule, with how many more there are; "" for none."""
    rules: dict[str, list[Violation]] = {}
    for violation in violations:
        rules.setdefault(violation.rule, []).append(violation)
    said = []
    for rule, (first, *others) in rules.items():
        more = f" ({len(others)} more)" if others else ""
        said.append(f"{rule}: {first.message}{more}")
    return "; ".join(said)


def notes_of(
    instance: Instance,
    schedule: Schedule,
    violations: Sequence[Violation],
    actual: Costs | None = None,
) -> dict[str, str]:
    """Return the columns of `NOTES`, empty where there is nothing to say.

    `actual` costs are what happened, where they differ from the instance's own. Tasks that are not
    done stand there with their reasons and count as no broken rule.
    """
    return {
        "broken": broken_text(v for v in violations if v.rule != "not_done"),
        "not_done": reasons_text(end_reasons(instance, schedule, actual)),
        "outside": beyond_exact_model(instance, schedule),
    }


def notes_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line per row and note, each text of a name once."""
    lines = []
    for row in rows:
        for column, begin in NOTES.items():
            text = row.get(column)
            if text:
                lines.append(f"{row['name']}: {begin + ': ' if begin else ''}{text}")
    return list(dict.fromkeys(lines))
