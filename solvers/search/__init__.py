"""Improvement: placements and orders of work, decoded into schedules and searched."""
