"""Who is told how a run goes, while it goes."""
