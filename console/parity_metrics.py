"""What `penstock features parity` tells Prometheus."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from dataflows.parity import Compared

REGISTRY = CollectorRegistry()
_ratio = Gauge(
    "penstock_features_parity_mismatch_ratio",
    "Of the keys compared, the share that is served what the raw events do not say",
    ["view"],
    registry=REGISTRY,
)
_keys = Gauge("penstock_features_parity_compared_keys", "Keys in the last comparison", ["view"], registry=REGISTRY)
_at = Gauge("penstock_features_parity_timestamp_seconds", "When that was, Unix time", registry=REGISTRY)


def serve(port: int) -> None:
    """Serve /metrics on localhost, in a thread."""
    start_http_server(port, addr="127.0.0.1", registry=REGISTRY)


def show(found: Sequence[Compared]) -> None:
    """Show the last comparison; the ratio of a view stays where no key could be compared, and an alert tells."""
    for each in found:
        if each.ratio is not None:
            _ratio.labels(each.view).set(each.ratio)
        _keys.labels(each.view).set(each.compared)
    _at.set(time.time())
