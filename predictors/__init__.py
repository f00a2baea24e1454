"""Time and memory models, calibrations, and costs for an instance."""
