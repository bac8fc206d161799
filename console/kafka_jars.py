"""Apache Kafka as a folder of jars: fetched once from Maven Central with the machine's own Java 17 and Maven."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from console.parts import PartMissing, quiet

ROOT = Path(__file__).resolve().parents[1]
POM = ROOT / "deploy" / "kafka" / "pom.xml"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_NEEDS_JAVA = 17


def find_java() -> tuple[str, str]:
    """The path and the full version of a Java that runs Kafka 4: `$JAVA_HOME`'s, else the one on the PATH.

    Raises:
        PartMissing: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    java = found or shutil.which("java")
    if java is None:
        raise PartMissing("no Java found; Kafka 4 needs Java 17 (Debian: apt install openjdk-17-jre-headless)")
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    version = re.search(r'version "((\d+)[^"]*)"', told)
    if version is None or int(version[2]) < _NEEDS_JAVA:
        has = version[1] if version else "unknown"
        raise PartMissing(
            f"{java} has version {has}; Kafka 4 needs Java 17 (Debian: apt install openjdk-17-jre-headless)"
        )
    return java, version[1]


def find_jars(progress: Callable[[str], None] = quiet) -> Path:
    """The folder of Kafka's jars under `.cache/kafka`, fetched with Maven when it is not there (54 MB).

    Raises:
        PartMissing: they are not there and Maven is missing or could not fetch them.
    """
    wanted = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    home = ROOT / ".cache" / "kafka"
    jars = home / wanted
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise PartMissing("Kafka is not fetched yet and there is no Maven to fetch it (Debian: apt install maven)")
    progress("fetching Apache Kafka from Maven Central (54 MB, once)")
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as half:
        fetched = Path(half) / "jars"
        told = subprocess.run(
            [maven, "-B", "-q", "-f", str(POM), _COPY, f"-DoutputDirectory={fetched}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if told.returncode != 0 or not any(fetched.glob("kafka_*.jar")):
            last = "\n".join((told.stdout + told.stderr).strip().splitlines()[-5:])
            raise PartMissing(f"Maven could not fetch Kafka; is Maven Central or a mirror of it reachable?\n{last}")
        try:
            fetched.rename(jars)  # whole or not at all; somebody else may have been faster
        except OSError:
            if not jars.is_dir():
                raise
    return jars
