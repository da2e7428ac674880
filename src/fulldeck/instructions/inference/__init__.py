"""Suit 3: instructions that optimise the trained model."""
