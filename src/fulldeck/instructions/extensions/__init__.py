"""The two extensions."""
