"""The first case of a new pipeline: an event of the sample, and what is decided about it now."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from console.case_file import Case
from console.cases import decide_case
from console.personal import Personal, without
from console.sample import Sample
from dataflows.locate import read_yaml
from dataflows.pipeline import load
from models.pii import Scanner


def case_text(file: Path, sample: Sample, personal: Personal, place: str, model: Path) -> str:
    """A case of the first event that the guard lets through; it expects what the pipeline decides about it now.

    What the guard masks is masked in the case too: a file that is shared should hold no personal data.
    """
    pipeline = load(file)
    release = os.path.relpath(model.resolve(), file.parent.resolve())
    number = personal.first_clean()
    case: dict[str, Any] = {
        "name": f"event {number + 1} of the sample" if number else "the first event of the sample",
        "now": sample.fields[sample.event_time].values[number],
        "models": {place: {"release": release}},
        "events": [{"value": without(sample.events[number], [sample.fields[each] for each in personal.masked])}],
    }
    scanner = Scanner(pipeline.guard.recognisers, pipeline.guard.phone_regions, pipeline.guard.threshold)
    [got] = decide_case(pipeline, Case.model_validate({**case, "expect": [{}]}), file.parent, scanner)
    kept = ("kind", "outcome", "reasons", "degraded", "reason", "field")
    case["expect"] = [{name: got[name] for name in kept if name in got}]
    head = "# Written by `penstock init`: what must come out when this event comes in. `penstock check` runs it.\n"
    return head + _yaml(case)


def _yaml(case: dict[str, Any]) -> str:
    """A case as YAML of one value a line; as JSON where YAML would not say the same, as with some exotic texts."""
    writer, text = YAML(), StringIO()
    writer.default_flow_style, writer.width = False, 4096
    writer.indent(mapping=2, sequence=4, offset=2)
    try:
        writer.dump(case, text)
        if read_yaml(text.getvalue()).data == case:
            return text.getvalue()
    except YAMLError:
        pass
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in case.items())
