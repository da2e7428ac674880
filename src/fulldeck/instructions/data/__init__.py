"""Suit 1: instructions that prepare the data."""
