"""The catalogue's instructions: one file each, named as in a recipe."""
