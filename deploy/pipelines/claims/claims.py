"""Claims from outside: chainladder's `prism.csv`, and the events that replay them.

The file holds 34,244 motor and home claims with accident, report, payment and close dates. Its maintainers do not say
where it comes from; it behaves like simulated data. It holds only claims that were closed by the end of 2017, so the
last years lack the slow ones. What it does not hold is invented here with fixed seeds: who the policyholder is,
contacts and descriptions. A policyholder's history therefore says nothing about a claim's outcome beyond chance.

`ClaimLiability` is the label in disguise (it is true exactly where something was owed) and is not even read.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from deploy.pipelines.claims.texts import PII_TYPES, Person, Texts
from deploy.pipelines.planned import Planned, ViewRow

TRAINING_SHARE = 0.4
"""The first claims by report date are for training only; the rest is replayed."""
HOLDERS = 6_000
HISTORY = timedelta(days=3 * 365)

PII_SHARE = 0.03
BROKEN_SHARE = 0.01
DUPLICATE_SHARE = 0.01
LATE_SHARE = 0.01

_HOLDER_SEED = 20080101
_FREQUENT = (60, 10.0)
"""The first 60 policyholders have ten times as many claims as the others."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the file, with an invented policyholder."""

    number: int
    holder: str
    """`PH-000123`."""
    accident_date: date
    report_date: date
    line: str
    """`Auto` or `Home`."""
    claim_type: str
    policy_limit: float
    deductible: float
    paid: float
    """Outcome, known at `closed_on`: never an input."""
    closed_on: date


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a claim ended."""

    paid: bool
    amount: float
    closed_on: date


@dataclass(frozen=True, slots=True)
class History:
    """What was known of a policyholder at one moment: claims closed in the three years before it."""

    claims_3y: float
    paid_3y: float
    tenure_days: float


def data_file() -> Path:
    """Path of `prism.csv` in the installed wheel of chainladder, which is not imported: its dependencies are not here.

    Raises:
        FileNotFoundError: chainladder is not installed, or its wheel has another layout.
    """
    spec = find_spec("chainladder")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "utils", "data", "prism.csv")
        if path.is_file():
            return path
    raise FileNotFoundError("could not find chainladder's prism.csv; `make demo` installs the demo's dependencies")


def read(path: Path | None = None) -> list[Claim]:
    """All claims, ordered by report date, then number. The policyholders are the same in every run."""
    with (path or data_file()).open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (_us_date(row["ReportDate"]), int(row["ClaimNo"])))
    few, times = _FREQUENT
    weights = [times] * few + [1.0] * (HOLDERS - few)
    holders = random.Random(_HOLDER_SEED).choices(range(HOLDERS), weights, k=len(rows))
    return [_claim(row, f"PH-{holder:06d}") for row, holder in zip(rows, holders, strict=True)]


def split(claims: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
    """The claims for training, and those that are replayed."""
    cut = int(len(claims) * TRAINING_SHARE)
    return list(claims[:cut]), list(claims[cut:])


def outcome(claim: Claim) -> Outcome:
    """The truth about a claim, which arrives at its close date."""
    return Outcome(claim.paid > 0, claim.paid, claim.closed_on)


def histories(claims: Sequence[Claim]) -> list[History]:
    """For each claim, its policyholder's history as it was known on the day before its report.

    Args:
        claims: From the file's first claim on, in order of report date.
    """
    earlier: defaultdict[str, list[Claim]] = defaultdict(list)
    found = []
    for claim in claims:
        found.append(_history(claim.holder, earlier[claim.holder], claim.report_date))
        earlier[claim.holder].append(claim)
    return found


def history_at(claims: Sequence[Claim], day: date) -> dict[str, History]:
    """The history of every policyholder as it was known on the day before `day`."""
    by_holder: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_holder[claim.holder].append(claim)
    return {holder: _history(holder, by_holder[holder], day) for holder in map("PH-{:06d}".format, range(HOLDERS))}


def view_rows(seed: int, n: int, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[ViewRow]:
    """The view `holder` as an offline job has left it: the history at the first replayed claim, dated yesterday."""
    claims = read()
    day = split(claims)[1][0].report_date
    as_of = (now() - timedelta(days=1)).timestamp()
    for holder, known in history_at(claims, day).items():
        values = {"claims_3y": known.claims_3y, "paid_3y": known.paid_3y, "tenure_days": known.tenure_days}
        yield ViewRow("holder", holder, values, as_of)


def event(claim: Claim, claim_id: str, noticed_at: datetime, person: Person, description: str) -> dict[str, Any]:
    """What is known at first notice, in the shape of the contract. `noticed_at` is the time of the replay."""
    return {
        "claim_id": claim_id,
        "policyholder_id": claim.holder,
        "noticed_at": _rfc3339(noticed_at),
        "accident_date": claim.accident_date.isoformat(),
        "report_date": claim.report_date.isoformat(),
        "line": claim.line,
        "claim_type": claim.claim_type,
        "policy_limit": claim.policy_limit,
        "deductible": claim.deductible,
        "description": description,
        "contact_name": person.name,
        "contact_email": person.email,
        "contact_phone": person.phone,
    }


def stream(seed: int, n: int, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Planned]:
    """Plan `n` events in order; each is dated when it is taken.

    Beyond the end of the file the claims come again with new ids.
    """
    replayed = split(read())[1]
    rng = random.Random(seed)
    texts = Texts(seed)
    repeats: dict[int, Planned] = {}
    """Position in the stream to the event that is sent again there."""
    taken = 0
    for i in range(n):
        if i in repeats:
            yield repeats.pop(i)
            continue
        round_, row = divmod(taken, len(replayed))
        claim = replayed[row]
        claim_id = f"CL-{claim.number:06d}" + (f"-{round_ + 1}" if round_ else "")
        taken += 1
        planned = _plan(rng, texts, claim, claim_id, now())
        if planned.kind == "clean" and rng.random() < DUPLICATE_SHARE:
            again = i + rng.randint(1, 50)
            if again not in repeats:
                repeats[again] = Planned(planned.key, planned.value, planned.headers, "duplicate")
        yield planned


def _plan(rng: random.Random, texts: Texts, claim: Claim, claim_id: str, at: datetime) -> Planned:
    description = texts.story(rng, claim.line)
    detail, draw = "", rng.random()
    kind: Any = "clean"
    if draw < PII_SHARE:
        kind, detail = "pii", rng.choice(PII_TYPES)
        description = f"{description} {texts.leak(rng, detail)}"
    elif draw < PII_SHARE + LATE_SHARE:
        kind, at = "late", at - timedelta(hours=1)
    elif draw < PII_SHARE + LATE_SHARE + BROKEN_SHARE:
        kind, detail = "broken", rng.choice(BREAKS)
    data = event(claim, claim_id, at, rng.choice(texts.people), description)
    if kind == "broken":
        _BREAK_DATA.get(detail, dict)(data)
    value, headers = _cloudevent(data, claim_id, structured=rng.random() < 0.25, trace=rng.getrandbits(192))
    if kind == "broken":
        value = _BREAK_BYTES[detail](value) if detail in _BREAK_BYTES else value
    return Planned(claim.holder.encode(), value, headers, kind, detail)


def _cloudevent(
    data: dict[str, Any], event_id: str, *, structured: bool, trace: int
) -> tuple[bytes | None, tuple[tuple[str, bytes], ...]]:
    """CloudEvents 1.0 over Kafka, in structured or binary mode, with a W3C trace."""
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/claims/notices",
        "type": "claim.noticed",
        "time": data["noticed_at"],
    }
    digits = f"{trace | 1 << 64 | 1:048x}"
    traceparent = ("traceparent", f"00-{digits[:32]}-{digits[32:]}-01".encode())
    if structured:
        whole = {**attributes, "datacontenttype": "application/json", "data": data}
        return orjson.dumps(whole), (("content-type", b"application/cloudevents+json"), traceparent)
    marks = tuple((f"ce_{name}", text.encode()) for name, text in attributes.items())
    return orjson.dumps(data), (("content-type", b"application/json"), *marks, traceparent)


_BREAK_DATA: dict[str, Callable[[dict[str, Any]], Any]] = {
    "missing_field": lambda data: data.pop("policy_limit"),
    "wrong_type": lambda data: data.update(policy_limit="a lot"),
    "unknown_field": lambda data: data.update(adjuster="third floor"),
    "constraint": lambda data: data.update(line="Boat"),
}
_BREAK_BYTES: dict[str, Callable[[Any], bytes | None]] = {
    "invalid_json": lambda value: value[: len(value) * 2 // 3],
    "invalid_utf8": lambda value: value.replace(b"-", b"\xff", 1),
    "duplicate_key": lambda value: b"{" + value[1:].split(b",", 1)[0] + b"," + value[1:],
    "not_an_object": lambda value: b"[" + value + b"]",
    "tombstone": lambda value: None,
    "empty": lambda value: b"",
}
BREAKS = (*_BREAK_DATA, *_BREAK_BYTES)
"""The ways to break an event; each is the reason code that is expected."""


def _history(holder: str, earlier: Sequence[Claim], day: date) -> History:
    closed = [c for c in earlier if day - HISTORY <= c.closed_on < day]
    # The first policy began in the ten years before the file begins: a fact that is known whatever happens later.
    began = date(2008, 1, 1) - timedelta(days=random.Random(f"{_HOLDER_SEED}-{holder}").randrange(3650))
    return History(float(len(closed)), sum(c.paid for c in closed), float((day - began).days))


def _claim(row: dict[str, str], holder: str) -> Claim:
    return Claim(
        number=int(row["ClaimNo"]),
        holder=holder,
        accident_date=date.fromisoformat(row["AccidentDate"]),
        report_date=_us_date(row["ReportDate"]),
        line=row["Line"],
        claim_type=row["Type"],
        policy_limit=float(row["Limit"]),
        deductible=float(row["Deductible"]),
        paid=float(row["TotalPayment"]),
        closed_on=_us_date(row["CloseDate"]),
    )


def _us_date(text: str) -> date:
    """`9/23/2009`: month, day, year."""
    month, day, year = text.split("/")
    return date(int(year), int(month), int(day))


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
