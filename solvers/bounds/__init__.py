"""Lower bounds as components of their own; `lower_bound` gives the best with its certificate."""
