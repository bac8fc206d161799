"""What answers for Redis: a connection (`state/redis_link.py`), nobody, or what is known beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from state.views import Command, Lack, Request


class Asks(Protocol):
    """Anything that answers for Redis."""

    @property
    def is_open(self) -> bool:
        """Whether a circuit breaker lets nothing through."""

    def ask(self, names: Sequence[bytes], commands: Sequence[Command] = ()) -> tuple[list[Any], list[Any]]:
        """Send commands, and GET for every name, in one round trip; commands go first.

        Returns:
            The answers to names (bytes, or None where there is no string) and to commands. An answer that could not be
            had is `Lack.UNAVAILABLE`, one that is an error `Lack.UNREADABLE`.
        """

    def changed(self) -> Iterable[bytes] | None:
        """Keys that were read by this link and have changed since; None where it may be any of them."""

    def close(self) -> None:
        """Let go."""


class NoLink:
    """Stands for a Redis that nobody named."""

    is_open = False

    def ask(self, names: Sequence[bytes], commands: Sequence[Command] = ()) -> tuple[list[Any], list[Any]]:
        """Nothing is available."""
        return [Lack.UNAVAILABLE] * len(names), [Lack.UNAVAILABLE] * len(commands)

    def changed(self) -> Iterable[bytes] | None:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing is open."""


class MemoryLink:
    """Stands for a Redis whose content is known, such as that of a case."""

    is_open = False

    def __init__(self, answers: Mapping[Request, Any]) -> None:
        """Take what Redis would answer to each request; to all others, that there is nothing."""
        self._answers = answers

    def ask(self, names: Sequence[bytes], commands: Sequence[Command] = ()) -> tuple[list[Any], list[Any]]:
        """Look it up."""
        return [self._answers.get(name) for name in names], [self._answers.get(command) for command in commands]

    def changed(self) -> Iterable[bytes] | None:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing is open."""
