"""Online policies: LeMix as published, LeMix as the paper means it, and baselines."""
