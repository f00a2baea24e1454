"""The exact problem as a CP-SAT model."""
