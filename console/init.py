"""`penstock init`: a first pipeline file from a sample of events and a model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from console.personal import Personal
    from console.sample import Sample

_DEFAULT_THRESHOLD = 0.5
_VERSION = re.compile(r"(?<=.)[-_.]v?\d+([._-]\d+)*$")
"""The end of `risk-1`, `risk-v2` and `risk_2.0.1`."""


class InitRefused(Exception):
    """No pipeline can be written. The message says what to do."""


def init(
    events: Annotated[Path, typer.Option(help="A sample of events: JSON lines, one object a line.")],
    model: Annotated[Path, typer.Option(help="The ONNX model that shall score them.")],
    out: Annotated[Path, typer.Option(help="Folder to write into; its name is the pipeline's.")] = Path("pipeline"),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a first pipeline file, with comments, and one case, from a sample of events and a model."""
    from console.check import describe, examine
    from console.sample import SampleUnusable

    try:
        notes = write_pipeline(events, model, out, force=force)
    except (InitRefused, SampleUnusable) as error:
        print(f"error: {error}")
        raise typer.Exit(2) from None
    report = examine(out / "pipeline.yaml")
    print("\n".join([*(f"note: {note}" for note in notes), *describe(report)]))
    print(f"next: read {out / 'pipeline.yaml'}, change the rule, then `penstock check {out / 'pipeline.yaml'}`")
    if not report.is_right:
        raise typer.Exit(1)


def write_pipeline(events: Path, model: Path, out: Path, *, force: bool = False) -> list[str]:
    """Write `pipeline.yaml` and `cases/first.yaml` into a folder; what the reader should look at.

    Raises:
        InitRefused: a file is there already, or the model does not fit.
        SampleUnusable: the sample does not say enough.
    """
    from console.first_case import case_text
    from console.personal import find_personal
    from console.sample import read_sample

    targets = [out / "pipeline.yaml", out / "cases" / "first.yaml"]
    if not force and (there := [str(target) for target in targets if target.exists()]):
        raise InitRefused(f"{there[0]} exists; use --force to replace it, or --out for another folder")
    sample = read_sample(events)
    inputs = model_inputs(model)
    derived = _derived(inputs, sample)
    name = _word(out.resolve().name, "pipeline")
    place = _word(_VERSION.sub("", model.stem), "model")  # a release has the version, its place has not
    place = f"{place}_score" if place in sample.fields or place in inputs else place
    threshold = _threshold(sample, inputs, derived, model)
    personal = find_personal(sample)
    head = (
        f"# Written by `penstock init` from a sample of {len(sample.events)} events and {model.name}. It is yours now."
    )
    text = "\n".join(
        [
            head,
            f"pipeline: {name}",
            "",
            _events_text(sample, personal),
            _decision_text(place, inputs, derived, threshold),
        ]
    )
    try:
        (out / "cases").mkdir(parents=True, exist_ok=True)
        targets[0].write_text(text, encoding="utf-8")
        targets[1].write_text(case_text(targets[0], sample, personal, place, model), encoding="utf-8")
    except OSError as error:
        raise InitRefused(f"could not write into {out}: {error.strerror}") from None
    notes = [
        f"the model's input '{each}' is not in the events: it is 0.0 until you say how it is computed"
        for each in derived
    ]
    notes += personal.notes()
    if sample.left_out:
        notes.append(f"left out, because they are lists or of several types: {', '.join(sample.left_out[:10])}")
    return notes


def model_inputs(path: Path) -> tuple[str, ...]:
    """The names of a model's inputs: its metadata `feature_names`, or its tensors where each is one number.

    Raises:
        InitRefused: it is no ONNX model, or does not say what it takes.
    """
    import onnxruntime

    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise InitRefused(f"could not read the model {path}: {error.strerror}") from None
    except Exception as error:  # ONNX Runtime has a class for each way in which a file can be broken
        raise InitRefused(f"{path} is not an ONNX model that can be loaded ({type(error).__name__})") from None
    said = session.get_modelmeta().custom_metadata_map.get("feature_names")
    if said is not None:
        names = json.loads(said) if said.lstrip().startswith("[") else [name.strip() for name in said.split(",")]
    else:
        tensors = session.get_inputs()
        names = [tensor.name for tensor in tensors]
        if len(tensors) == 1 and tensors[0].shape[1:] not in ([], [1]):
            raise InitRefused(
                f"{path} takes one tensor of shape {tensors[0].shape} and does not say what its columns are; write "
                'their names into its metadata, in order: `metadata_props.add(key="feature_names", value="a,b,c")`'
            )
    _check_names(path, names)
    return tuple(names)


def _check_names(path: Path, names: Sequence[str]) -> None:
    from models.sql_tree import usable_name

    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", str(name)) or not usable_name(name):
            raise InitRefused(
                f"{path} has an input called '{name}', which cannot be a column in SQL; give it another name"
            )


def _derived(inputs: Sequence[str], sample: Sample) -> list[str]:
    """The inputs that are no field of the events."""
    for name in inputs:
        if name in sample.fields and sample.fields[name].type == "string":
            raise InitRefused(
                f"the model's input '{name}' is text in the events, and a model takes numbers: give the input another "
                "name, and derive it in `features` of the pipeline file"
            )
    return [name for name in inputs if name not in sample.fields]


def _word(text: str, otherwise: str) -> str:
    from models.sql_tree import usable_name

    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
    return word if re.match(r"[a-z]", word) and usable_name(word) else otherwise


def _events_text(sample: Sample, personal: Personal) -> str:
    """Contract, guard, dedupe and recall."""
    fields = "\n".join(_field_text(sample, each) for each in sample.fields)
    allowed = [f"    {each}: allow" for each, seen in sample.fields.items() if _is_safe(sample, each, seen.type)]
    masked = [f"    {each}: mask # {personal.comment(each)}" for each in personal.masked]
    actions = "\n".join([*allowed, *masked])
    return f"""\
contract: # what an event must be like; one that is not is rejected, with the reason, and kept sealed
  version: 1
  format: {"cloudevents" if sample.is_cloudevents else "json"}
  event_id: {sample.event_id} # by it duplicates are found
  entity: {sample.entity} # who or what the event is about; the key of the topic
  event_time: {sample.event_time}
  unknown_fields: drop # or reject
  fields: # types, and limits such as ge, le, enum, pattern, max_length
{fields}

guard: # personal data: allow, drop, mask, tokenise or scan each field; what is found is quarantined, sealed
  on_finding: quarantine # or redact
  default: scan
  fields:
{actions}

dedupe:
  window: 1d # an event id seen again within this is a duplicate

recall: # the entity's own recent events
  features: {{}} # such as  events_1h: {{ function: count, window: 1h }}
"""


def _decision_text(place: str, inputs: Sequence[str], derived: Sequence[str], threshold: float) -> str:
    """Features, models and policy."""
    lines = [f'  {each}: "0.0" # not in the events: say how it is computed' for each in derived]
    features = "\n".join(["features: # derived: SQL expressions over fields and features", *lines])
    if not derived:
        features = 'features: {} # derived, such as  amount_log: "LN(amount + 1)"; SQL over fields and features'
    return f"""\
{features}

models:
  {place}:
    inputs: [{", ".join(inputs)}]
    budget: 100ms
    # fallback: "0.0"  # the score where no release gives one; without it the score is unknown

policy:
  version: "1"
  outcomes: [approve, review] # from mild to severe
  default: approve
  on_unknown: review # what a rule demands that cannot be computed
  rules: # each one that holds gives its reason; the most severe outcome wins
    - {{ name: high_score, when: "{place} > {threshold}", outcome: review, reason: SCORE_HIGH }} # 1 in 20 of the sample
"""


def _is_safe(sample: Sample, name: str, kind: str) -> bool:
    return kind != "string" or name in (sample.event_id, sample.entity)


def _field_text(sample: Sample, name: str) -> str:
    seen = sample.fields[name]
    parts = [f"type: {seen.type}"]
    if seen.path != (name,):
        pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in seen.path)
        parts.append(f"from: {json.dumps(pointer)}")
    if seen.type == "string":
        longest = max(map(len, seen.values))
        most = 256 if name in (sample.event_id, sample.entity) else 100_000
        parts.append(f"max_length: {min(most, max(40, 4 * longest))}")
    if len(seen.values) + seen.nulls < len(sample.events):
        parts.append("required: false")
    if seen.nulls:
        parts.append("nullable: true")
    return f"    {name}: {{ {', '.join(parts)} }}"


def _threshold(sample: Sample, inputs: Sequence[str], derived: Sequence[str], model: Path) -> float:
    """What one in twenty of the sample's scores is above; 0.5 where the sample cannot be scored as it is."""
    import numpy as np

    from models.onnx import OnnxModel
    from models.release import ModelRefused

    plain = [name for name in inputs if name not in derived]
    n = len(sample.events)
    if any(sample.fields[name].type in ("date", "datetime") or not sample.fields[name].is_in_all(n) for name in plain):
        return _DEFAULT_THRESHOLD
    rows = np.zeros((n, len(inputs)), np.float32)
    for at, name in enumerate(inputs):
        if name not in derived:
            rows[:, at] = sample.fields[name].values
    try:
        scores = OnnxModel.load(model.read_bytes(), inputs).score(rows)
    except ModelRefused as error:
        raise InitRefused(f"{model} cannot be used: {error}") from None
    finite = scores[np.isfinite(scores)]
    return float(f"{np.quantile(finite, 0.95):.4g}") if len(finite) else _DEFAULT_THRESHOLD
