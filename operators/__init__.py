"""Stages: one file, one verb each. `batch.py` has what flows between them."""
