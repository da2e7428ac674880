"""A trained model in every engine and precision of this machine, compared and timed; the fastest that is right."""
