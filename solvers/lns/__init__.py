"""`lns`: neighbourhoods of a schedule, searched again by windows of the exact model."""
