"""Search parameters and instructions for a stated goal."""
