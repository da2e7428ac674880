"""Suit 4: instructions that configure the service."""
