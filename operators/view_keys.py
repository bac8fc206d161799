"""How the value of a view's key is written: in Redis, in lane state, and as the key of a re-keyed record."""

from __future__ import annotations

import math

import numpy as np

from operators.batch import Column


def keys_of(column: Column) -> list[str | None]:
    """The key of each row: a string as it is, a whole number in digits, None where there is none."""
    if isinstance(column, np.ndarray):
        return [str(int(number)) if math.isfinite(number) else None for number in column.tolist()]
    return list(column)
