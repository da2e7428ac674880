"""Diagnosis: where the time and memory of a run go, and which instructions address that."""
