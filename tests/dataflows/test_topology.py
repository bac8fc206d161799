"""The flow as one: its step ids, which stored state is keyed by, its diagram, and one first record for each event."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytewax.testing import TestingSink, TestingSource, run_main
from bytewax.visualize import to_rendered
from hypothesis import given, settings
from hypothesis import strategies as st

from console.diagram import BEGIN, END, README, Undrawn, block, within
from dataflows.decisions import wire
from dataflows.stages import Stages
from operators import dedupe, recall
from operators.batch import Batch, Close, Item, Open
from tests.operators.passage import LANES, events, firsts_of, stages

STEPS = [
    "decisions.events",
    "decisions.decode",
    "decisions.guard",
    "decisions.by_lane",
    "decisions.dedupe",
    "decisions.recall",
    "decisions.together",
    "decisions.enrich",
    "decisions.score",
    "decisions.decide",
    "decisions.emit",
    "decisions.records",
]
STATE = {"dedupe": dedupe.STEP, "recall": recall.STEP}
"""Step of the flow to the step that its entries in the state topic are keyed by."""
BREAKING = (
    "a renamed step does not find the state that running pipelines have stored: tell it in CHANGELOG.md, under State "
    "of the next release, with what a running pipeline must do, and only then change this test"
)


def steps_of(flow: Any) -> list[str]:
    return [step.step_id for step in flow.substeps]


def decisions() -> Any:
    stages: Any = Undrawn()
    return wire(TestingSource([]), stages, TestingSink([]))


def test_step_ids_are_what_they_were() -> None:
    assert steps_of(decisions()) == STEPS, BREAKING


def test_state_is_stored_under_the_names_that_it_was_stored_under() -> None:
    assert STATE == {"dedupe": "dedupe", "recall": "recall"}, BREAKING
    inner = {found for step in decisions().substeps for found in every_id(step)}
    for step, stored in STATE.items():
        assert f"decisions.{step}.{stored}" in inner, f"the stage {step} no longer keeps its lanes' memory; {BREAKING}"


def every_id(step: Any) -> list[str]:
    return [step.step_id, *(found for inner in getattr(step, "substeps", []) for found in every_id(inner))]


def test_every_stage_has_what_it_needs_from_one_before_it() -> None:
    """One line from the events to the records: each stage reads the one before it, and nothing is left open."""
    drawn = to_rendered(decisions())
    sources = [{port for up in step.inp_ports for port in up.from_port_ids} for step in drawn.substeps]
    ends = [{port.port_id for port in step.out_ports} for step in drawn.substeps]

    assert sources[1:] == ends[:-1]
    assert sources[0] == ends[-1] == set()


def test_the_diagram_in_the_readme_is_current() -> None:
    readme = README.read_text(encoding="utf-8")

    assert re.findall(f"{BEGIN}.*?{END}", readme, re.DOTALL) == [block()], "run: python -m console.diagram --write"


def test_the_diagram_goes_where_its_markers_are() -> None:
    drawn = f"{BEGIN}\nnew\n{END}"

    assert within("# A\n", drawn) == f"# A\n\n## The dataflow\n\n{drawn}\n"
    assert within(f"# A\n\n{BEGIN}\nold\n{END}\n\nb\n", drawn) == f"# A\n\n{drawn}\n\nb\n"
    for broken in (f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{BEGIN}{END}"):
        with pytest.raises(ValueError, match="expected one"):
            within(broken, drawn)


def test_the_diagram_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from console import diagram

    monkeypatch.setattr(diagram, "README", tmp_path / "README.md")
    diagram.README.write_text(f"# A\n\n{BEGIN}\nold\n{END}\n")

    assert diagram.main([]) == diagram.main(["--write"]) == 0
    assert diagram.README.read_text() == f"# A\n\n{block()}\n"
    assert f"```mermaid\n{capsys.readouterr().out}```" in block()


@given(st.lists(st.tuples(*[st.integers(0, 5)] * len(LANES)), max_size=12))
@settings(max_examples=40)
def test_every_event_has_one_first_record_however_they_are_polled(rows: Sequence[tuple[int, ...]]) -> None:
    """`rows` are how many of each lane come with each poll; the same first records come of it as of a single one."""
    firsts = decided(polls(events(), rows))
    whole = events()

    origins = Counter((lane, offset) for _, lane, offset, _ in firsts)
    assert origins == Counter(zip(whole.lane.tolist(), whole.offset.tolist(), strict=True))
    assert sorted(firsts, key=lambda first: first[:3]) == in_one_poll()
    for topic in {first[0] for first in firsts}:
        for lane in LANES:
            offsets = [first[2] for first in firsts if first[:2] == (topic, lane)]
            assert offsets == sorted(offsets), "in lane order"


def polls(whole: Batch, rows: Sequence[tuple[int, ...]]) -> list[Batch]:
    """Cut into polls with so many rows of each lane; what is left comes with the last one."""
    left = {lane: np.flatnonzero(whole.lane == lane) for lane in LANES}
    found = []
    for counts in (*rows, [len(whole)] * len(LANES)):
        taken = {lane: left[lane][:n] for lane, n in zip(LANES, counts, strict=True)}
        left = {lane: left[lane][len(taken[lane]) :] for lane in LANES}
        if sum(map(len, taken.values())):
            progress = {lane: int(whole.offset[at[-1]]) + 1 for lane, at in taken.items() if len(at)}
            found.append(
                replace(whole.take(np.concatenate(list(taken.values()))), poll=len(found) + 1, progress=progress)
            )
    return found


def decided(batches: Sequence[Batch]) -> list[tuple[str, int, int, Any]]:
    """Put them through the flow as it is wired; gives the first records."""
    out: list[Item] = []
    items: list[Item] = [*(Open(lane, {}) for lane in LANES), *batches, *(Close(lane) for lane in LANES)]
    run_main(wire(TestingSource(items), the_stages(), TestingSink(out)))
    assert len(out) == len(items)
    return [first for item in out if isinstance(item, Batch) for first in firsts_of(item.records)]


@cache
def the_stages() -> Stages:
    return stages()


@cache
def in_one_poll() -> list[tuple[str, int, int, Any]]:
    return sorted(decided([events()]), key=lambda first: first[:3])
