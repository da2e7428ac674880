"""Recipes: what a run is asked for."""
