"""How a slot leaves: its exit status tells the next life what to look at first."""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_HUNG = 70
EXIT_FENCED = 71
"""Another process has become this slot."""
EXIT_UNFIT = 72
"""The topics are not what the lanes are about, or Kafka's access rules refuse them."""
