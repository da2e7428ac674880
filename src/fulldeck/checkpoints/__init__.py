"""How a training is kept, and found again."""
