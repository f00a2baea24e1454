"""A real pipeline of transformer stages that is timed while it serves and trains."""
