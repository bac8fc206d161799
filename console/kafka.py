"""Apache Kafka for people: one broker or several, with or without TLS, users and access rules (`make kafka`)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from console.kafka_cluster import KafkaCluster
from console.kafka_jars import ROOT
from console.kafka_security import Security
from console.kafka_server import KafkaServer
from console.parts import PartFailed, PartMissing


def main(arguments: list[str] | None = None) -> int:
    """Run Apache Kafka on this machine until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make kafka", description=main.__doc__)
    parser.add_argument("--brokers", type=int, default=1, choices=range(1, 10), metavar="N", help="1 by default")
    parser.add_argument("--port", type=int, default=9092, help="of the first broker; the others have the next ones")
    parser.add_argument("--folder", type=Path, help="where data and client files stay, under .penstock by default")
    parser.add_argument("--tls", action="store_true", help="encrypt, with certificates made for it")
    parser.add_argument("--sasl", action="store_true", help="ask clients for user and password (SCRAM-SHA-512)")
    parser.add_argument("--acls", action="store_true", help="allow users only what they were granted")
    options = parser.parse_args(arguments)
    try:
        with _kafka(options) as kafka:
            print(f"Apache Kafka is up: --bootstrap {kafka.bootstrap} {_more(kafka)}", flush=True)
            while kafka.running:
                time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    except (PartMissing, PartFailed, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"Kafka ended by itself; see kafka.log in {kafka.folder}", file=sys.stderr)
    return 1


def _kafka(options: argparse.Namespace) -> KafkaServer | KafkaCluster:
    wanted = {name: getattr(options, name) for name in ("tls", "sasl", "acls")}
    kind = "-".join(["kafka", *([str(options.brokers)] if options.brokers > 1 else []), *filter(wanted.get, wanted)])
    folder = options.folder or ROOT / ".penstock" / kind
    if kind == "kafka":
        return KafkaServer(folder, port=options.port, progress=print)
    security = Security(folder.resolve() / "clients", **wanted) if any(wanted.values()) else None
    return KafkaCluster(folder, brokers=options.brokers, first_port=options.port, progress=print, security=security)


def _more(kafka: KafkaServer | KafkaCluster) -> str:
    secured = isinstance(kafka, KafkaCluster) and kafka.security
    file = f"--client-config {secured.client_file()} " if secured else ""
    return f"{file}(data in {kafka.folder}; Ctrl-C ends it)"


if __name__ == "__main__":
    sys.exit(main())
