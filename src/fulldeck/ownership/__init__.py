"""Whose model it is: an owner's key, what it marks a model with, and the test for that mark."""

THRESHOLD = 1e-6
"""A claim is made below it. Whoever is free to choose the key needs about a million of them to come there by luck."""
