"""Suit 2: instructions that attach to the training loop."""
