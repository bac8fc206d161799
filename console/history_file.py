"""Read a file of past events: Parquet or CSV, a column for each contract field, in batches, as the contract takes them.

Parquet has types; in CSV every cell is text, which becomes what the contract asks for where it can. Dates and datetimes
become text as the contract has it; without a zone they are UTC, and a day is no datetime. An empty cell or null is a
missing value. What cannot be read is left as it stands, for the contract to refuse by field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from console.feature_file import FileUnusable, Refused, Seen, number_of, read_lines

if TYPE_CHECKING:
    import polars as pl

    from operators.contract import ContractSpec

Row: TypeAlias = "tuple[int, Mapping[str, Any] | Refused]"
"""Line of a CSV file, or row of a Parquet file from 1; and field to value."""

FORMATS = (".parquet", ".csv", ".csv.gz")


def in_batches(path: Path, contract: ContractSpec, size: int, seen: Seen) -> Iterator[Sequence[Row]]:
    """Give the rows in the order of the file, `size` at a time; `seen` hears how far it is read, of `length_of`.

    Raises:
        FileUnusable: its name has no known ending, it cannot be read, or it lacks a column.
    """
    if not path.name.lower().endswith(FORMATS):
        raise FileUnusable(f"could not tell the format of {path}; expected a name that ends with {', '.join(FORMATS)}")
    if _is_parquet(path):
        yield from _of_parquet(path, contract, size, seen)
        return
    rows = read_lines(path, list(contract.fields), seen)
    while batch := list(islice(rows, size)):
        yield [(line, row if isinstance(row, Refused) else _of_texts(row, contract)) for line, row in batch]


def length_of(path: Path) -> int:
    """Rows of a Parquet file, bytes of another; 0 where it cannot be told."""
    from polars import len as rows
    from polars import scan_parquet
    from polars.exceptions import PolarsError

    try:
        return int(scan_parquet(path).select(rows()).collect().item()) if _is_parquet(path) else path.stat().st_size
    except (OSError, PolarsError):
        return 0  # reading it will say why


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _of_parquet(path: Path, contract: ContractSpec, size: int, seen: Seen) -> Iterator[Sequence[Row]]:
    from polars import Date, scan_parquet
    from polars.exceptions import PolarsError

    try:
        file = scan_parquet(path)
        schema = file.collect_schema()
        if lacking := [name for name in contract.fields if name not in schema]:
            raise FileUnusable(
                f"{path} lacks the columns {', '.join(lacking)}; expected one for each field that the views need"
            )
        fields = {name: spec.type for name, spec in contract.fields.items()}
        if days := [name for name, kind in fields.items() if kind == "datetime" and schema[name] == Date]:
            raise FileUnusable(f"{path} has days in {', '.join(days)}, where the contract has datetimes")
        asked = file.select([_as_contract(name, kind, schema[name]) for name, kind in fields.items()])
        first = 1
        for frame in asked.collect_batches(chunk_size=size, maintain_order=True):
            columns = [[_plain(value, kind) for value in frame[name].to_list()] for name, kind in fields.items()]
            rows = [_present(dict(zip(fields, row, strict=True)), contract) for row in zip(*columns, strict=True)]
            for start in range(0, len(rows), size):
                yield list(enumerate(rows[start : start + size], start=first + start))
            first += len(rows)
            seen(first - 1)
    except (OSError, PolarsError) as error:
        raise FileUnusable(f"could not read {path}: {_first_line(error)}") from None


def _as_contract(name: str, kind: str, dtype: pl.DataType) -> pl.Expr:
    """A column in the form that JSON would have."""
    import polars as pl

    column = pl.col(name)
    if kind == "datetime" and isinstance(dtype, pl.Datetime):
        moment = column.cast(pl.Datetime("us", dtype.time_zone))
        if dtype.time_zone is not None:
            moment = moment.dt.convert_time_zone("UTC")
        return moment.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    if kind == "date" and dtype in (pl.Datetime, pl.Date):
        return column.dt.strftime("%Y-%m-%d")
    if kind == "string" and dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if kind == "number" and dtype.is_numeric():
        return column.cast(pl.Float64)
    return column


def _of_texts(cells: Mapping[str, Any], contract: ContractSpec) -> dict[str, Any]:
    """A line of CSV as the contract takes it."""
    row = {name: cells.get(name) for name in contract.fields}
    return _present(
        {name: _read(contract.fields[name].type, cell) if cell else None for name, cell in row.items()}, contract
    )


def _present(row: dict[str, Any], contract: ContractSpec) -> dict[str, Any]:
    """Without what is missing; null stays where the contract takes it."""
    return {name: value for name, value in row.items() if value is not None or contract.fields[name].nullable}


def _plain(value: Any, kind: str) -> Any:
    """A value of Parquet; pandas writes a missing number as NaN, and integers beside one as floats.

    An infinite number becomes text, for the contract to refuse: no event can have one, JSON has none.
    """
    if kind in ("number", "integer") and isinstance(value, float):
        if not math.isfinite(value):
            return None if math.isnan(value) else str(value)
        return int(value) if kind == "integer" and value.is_integer() else value
    return _moment(value) if kind == "datetime" and isinstance(value, str) else value


def _read(kind: str, cell: str) -> Any:
    """A cell of CSV as its contract type; the cell itself where it is none."""
    try:
        return _READ[kind](cell) if kind in _READ else cell
    except (ValueError, KeyError, OverflowError):
        return cell


def _moment(cell: str) -> str:
    """A datetime as the contract has it; pandas writes a blank for the T, and no zone. A mere day is none."""
    if len(cell) <= len("2026-12-01") or (cell[10] == "T" and cell.endswith("Z")):
        return cell
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return cell
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(cell: str) -> float:
    if (number := number_of(cell)) is None:
        raise ValueError
    return number


def _integer(cell: str) -> int:
    number = _number(cell)
    if not number.is_integer():
        raise ValueError
    return int(number) if "." in cell else int(cell)  # pandas writes 1.0 where another row has none


_READ: Mapping[str, Callable[[str], Any]] = {
    "number": _number,
    "integer": _integer,
    "boolean": lambda cell: {"true": True, "false": False}[cell.lower()],
    "datetime": _moment,
}


def _first_line(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
