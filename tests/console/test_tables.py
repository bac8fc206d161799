"""What stands in a table is other people's names, on whatever terminal."""

from __future__ import annotations

import pytest

from console.tables import print_table

ID = "claims-0001-000000000004-P"


def test_names_are_no_markup_and_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["client", "host"], [("[/b] [red]x", ":smile: \x1b[31m")])

    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["[/b]", "[red]x", ":smile:", "\ufffd[31m"]
    ]


def test_on_a_narrow_terminal_nothing_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["id"], [(ID,)], width=12)

    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.strip() for line in lines[1:]) == ID
    assert max(map(len, lines)) <= 12


def test_where_there_is_no_terminal_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a"], [("x" * 500,), (3,)])

    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["a", "x" * 500, "3"]
