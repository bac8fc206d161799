"""Dataflows: start at `decisions.py`, which wires the stages into one flow."""
