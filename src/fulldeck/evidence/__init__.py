"""Evidence: what an instruction does, shown by an A/B measurement on the user's own model and machine."""
