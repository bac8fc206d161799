"""What the servers that Penstock starts for itself have in common with each other, and with their absence."""

from __future__ import annotations


class PartMissing(Exception):
    """A program that a real part needs is not on this machine. The message says which, and how to get it."""


class PartFailed(Exception):
    """A part was started and did not come up. The message ends with the last lines of its log."""


def quiet(_: str) -> None:
    """A progress callback that says nothing."""
