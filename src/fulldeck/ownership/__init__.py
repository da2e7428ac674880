"""Whose model it is: an owner's key, what it marks a model with, and the test for that mark."""
