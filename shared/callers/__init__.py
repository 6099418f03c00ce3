"""Callers: one module per kind of caller, with the proof that it has to show."""
