"""The README's picture of the dataflow, drawn from the dataflow itself: `python -m console.diagram [--write]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- diagram -->", "<!-- /diagram -->"
"""Between these lines of the README the diagram stands; `--write` puts it there."""


class Undrawn:
    """Stands for stages when a flow is only looked at: whatever is asked of it is another one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self


def mermaid() -> str:
    """The dataflow `decisions` as Mermaid draws it, one box for each stage."""
    from bytewax.testing import TestingSink, TestingSource
    from bytewax.visualize import to_mermaid

    from dataflows.decisions import wire

    stages: Any = Undrawn()
    return to_mermaid(wire(TestingSource([]), stages, TestingSink([])))


def block() -> str:
    """What stands in the README, markers included."""
    return f"{BEGIN}\n```mermaid\n{mermaid()}\n```\n{END}"


def within(readme: str, drawn: str) -> str:
    """Put a drawn block into the text of a README: between its markers, or at its end where there are none.

    Raises:
        ValueError: there is one marker without the other, or more than one pair.
    """
    begins, ends = readme.count(BEGIN), readme.count(END)
    if begins == ends == 0:
        return f"{readme.rstrip()}\n\n## The dataflow\n\n{drawn}\n"
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if (begins, ends) != (1, 1) or not end:
        raise ValueError(f"expected one {BEGIN} and one {END} after it in the README, found {begins} and {ends}")
    return before + drawn + after


def main(arguments: list[str] | None = None) -> int:
    """Print the diagram, or put it into the README."""
    parser = argparse.ArgumentParser(prog="python -m console.diagram", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if parser.parse_args(arguments).write:
        README.write_text(within(README.read_text(encoding="utf-8"), block()), encoding="utf-8")
    else:
        print(mermaid())
    return 0


if __name__ == "__main__":
    sys.exit(main())
