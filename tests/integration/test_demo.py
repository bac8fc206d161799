"""The demo as a person runs it: one command, in a terminal or not, and nothing left behind."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest

from console.accounting import Reader

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "console.cli", "demo"]
pytestmark = pytest.mark.timeout(300)


def run_headless(*options, env=None):
    told = subprocess.run(
        [*DEMO, "--headless", *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1]), told.stderr


def folders():
    return {path.name for path in (ROOT / ".penstock").glob("demo-*")}


def processes():
    """Command lines of all programs that run out of a demo's folder or belong to one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{ROOT}/.penstock/demo-" in line:
            found.append(line)
    return found


def assert_agrees_with_what_was_planned(summary, pii):
    """The generator knows what it broke, repeated and gave away; the engine has to find just that."""
    planned = summary["planned"]
    assert summary["read"] == summary["sent"] == sum(planned.values())
    assert sum(summary["rejected"].values()) == planned.get("broken", 0)
    assert summary["duplicates"] == planned.get("duplicate", 0)
    assert summary["quarantined"] == (planned.get("pii", 0) if pii == "quarantine" else 0)
    others = sum(summary["rejected"].values()) + summary["duplicates"] + summary["quarantined"]
    assert summary["decisions"] == summary["read"] - others
    assert sum(summary["outcomes"].values()) == summary["decisions"]
    assert summary["reviews"] == summary["outcomes"].get("review", 0)
    assert (summary["unaccounted"], summary["strange"]) == (0, 0)
    assert summary["first_decision_s"] > 0
    assert 0 < summary["p50_ms"] <= summary["p95_ms"] <= summary["p99_ms"]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    before = folders()
    yield
    assert processes() == []
    assert folders() == before


@pytest.fixture
def no_java():
    """An environment in which no Java is found."""
    found = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    found.pop("JAVA_HOME", None)
    return found


@contextmanager
def kept(*options, env=None):
    """Summary, what was told, and the Kafka that stays until the end of the block."""
    summary, told = run_headless(*options, "--keep", env=env)
    pid, folder = int(re.search(r"kill (\d+)", told)[1]), Path(re.search(r"the folder (\S+) stays", told)[1])
    try:
        yield summary, told, re.search(r"Kafka stays at (\S+)", told)[1]
    finally:
        os.kill(pid, signal.SIGTERM)
        ended = time.monotonic() + 40
        while processes() and time.monotonic() < ended:
            time.sleep(0.1)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert processes() == []


def test_claims_on_real_kafka_swap_a_release_and_what_is_kept_can_be_counted_again(kafka):
    with kept("--events", "1200", "--rate", "50") as (summary, told, bootstrap):  # 12 s for the second release
        assert_agrees_with_what_was_planned(summary, "quarantine")
        assert (summary["kafka"], summary["guarantee"]) == ("kafka", "exactly_once")
        assert summary["releases"]["severity"].keys() == {"1", "2"}
        assert summary["releases"]["severity_online"] == {"1": summary["decisions"]}
        assert "real broker" in told

        account = [sys.executable, "-m", "console.accounting", "--bootstrap", bootstrap, "--pipeline", "claims"]
        again = subprocess.run(account, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert again.returncode == 0, again.stderr
        found = json.loads(again.stdout)
        assert found == {name: summary[name] for name in found}


def assert_payments_are_decided_with_their_views(env=None):
    with kept("--pipeline", "payments", "--events", "1000", "--rate", "100", env=env) as (summary, told, bootstrap):
        assert_agrees_with_what_was_planned(summary, "redact")
        reader = Reader({"bootstrap.servers": bootstrap}, {"decisions": "payments.decisions"})
        decisions = [json.loads(message.value()) for _, message in reader.everything(30.0)]
        reader.close()
    late = sorted(decisions, key=lambda body: body["decided_at"])[len(decisions) // 2 :]

    assert "features, by-device_id, views" in told
    assert summary["degraded"] == sum(bool(body["degraded"]) for body in decisions)
    assert [lack for body in late for lack in body["degraded"] if re.fullmatch("view:.*:missing", lack)] == []
    for feature in ("card_payments_10m", "device_cards_1d"):
        assert any(body["features"][feature] > 0 for body in late), f"{feature} is 0 everywhere, as by default"
    return summary


@pytest.mark.ci
def test_payments_on_real_kafka_are_decided_with_their_views(kafka):
    assert assert_payments_are_decided_with_their_views()["guarantee"] == "exactly_once"


@pytest.mark.ci
def test_payments_without_java_are_decided_with_their_views(no_java):
    assert assert_payments_are_decided_with_their_views(no_java)["guarantee"] == "at_least_once"


def test_without_java_the_demo_says_so_and_promises_less(no_java):
    summary, told = run_headless("--events", "1000", "--rate", "250", env=no_java)

    assert_agrees_with_what_was_planned(summary, "quarantine")
    assert (summary["kafka"], summary["guarantee"]) == ("mock", "at_least_once")
    assert "no Java found" in told
    assert "at least once" in told


class Terminal:
    """A terminal of 80 by 24 with the demo in it."""

    def __init__(self, *options):
        self.screen = pyte.Screen(80, 24)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ.update(TERM="xterm-256color", COLUMNS="80", LINES="24")
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs these tests in the background has it ignored
            os.execv(DEMO[0], [*DEMO, *options])
        self.raw = b""

    def read_until(self, holds, what, timeout=120.0):
        deadline = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < deadline, f"never saw {what}; the screen: {self.screen.display}"
            self.read(0.2)

    def read(self, timeout):
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                data = os.read(self.fd, 65_536)
            except OSError:  # the other side is closed
                return False
            self.raw += data
            self.stream.feed(data)
            return bool(data)
        return True

    def shows(self, text):
        return any(text in line for line in self.screen.display)

    def type(self, keys):
        os.write(self.fd, keys)

    def end(self, timeout=90.0):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0):
                    if not select.select([self.fd], [], [], 0.2)[0]:
                        break
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        pytest.fail("the demo did not end")


def test_in_a_terminal_one_watches_it_and_kills_a_slot(kafka):
    terminal = Terminal("--events", "100000", "--rate", "100")
    terminal.read_until(lambda: terminal.shows("produce to committed decision"), "the view")
    terminal.read_until(lambda: re.search(r"approve +[1-9]", "\n".join(terminal.screen.display)), "decisions")
    terminal.type(b"k")
    terminal.read_until(lambda: terminal.shows("was killed"), "the kill")
    terminal.read_until(lambda: terminal.shows("decided again after"), "the lanes decided again")
    terminal.read_until(lambda: terminal.shows("lost 0, twice 0"), "what it cost")
    terminal.type(b"q")

    assert terminal.end() == 0
    kill = rb"1 slot was killed; after the last kill its lanes paused for \d+\.\d s"
    [read] = re.findall(rb"([\d,]+) events: 0 lost, 0 decided twice; " + kill, terminal.raw)
    assert 0 < int(read.replace(b",", b"")) < 100_000
    assert b'"unaccounted"' not in terminal.raw


def test_interrupt_ends_everything(kafka):
    terminal = Terminal("--events", "100000", "--rate", "100")
    terminal.read_until(lambda: terminal.shows("produce to committed decision"), "the view")
    assert processes()
    terminal.type(b"\x03")

    assert terminal.end() == 130
    assert b"everything that was started has been ended" in terminal.raw
    assert processes() == []


def test_unknown_pipeline_is_named():
    told = subprocess.run([*DEMO, "--pipeline", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert told.returncode == 2
    assert "claims or payments" in told.stderr
