"""W3C Trace Context in a record's headers: the one rule by which it is carried from event to decision."""

from __future__ import annotations

import re

from operators.batch import Headers

# Level 1: any version but ff, ids that are not zero. A longer text of a later version could carry anything.
_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MEMBER = rb"[ \t]*(?:[a-z0-9][a-z0-9_*/@-]{0,255}=[ !-+\--<>-~]{0,255}[!-+\--<>-~])?[ \t]*"
_STATE = re.compile(rb"%b(?:,%b){0,31}" % (_MEMBER, _MEMBER))
_MOST = 512
"""Bytes of `tracestate` that must be carried on (section 3.3.1.5); a longer one is left out."""


def trace_context(headers: Headers) -> Headers:
    """Give `traceparent`, and `tracestate` after it, as far as they are well-formed; of each name the first counts.

    Without a valid `traceparent` there is no trace, and `tracestate` goes as well (section 3.3).
    """
    if not headers:
        return []
    given = {name.lower(): data for name, data in reversed(headers)}
    parent, state = given.get("traceparent"), given.get("tracestate")
    if parent is None or not _PARENT.fullmatch(parent):
        return []
    if not state or len(state) > _MOST or not _STATE.fullmatch(state):
        return [("traceparent", parent)]
    return [("traceparent", parent), ("tracestate", state)]
