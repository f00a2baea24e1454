"""Studies, comparison, plots and the lemix command."""
