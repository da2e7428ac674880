"""A plan, executed."""
