"""The story of `penstock demo`: what is started, in which order, what happens then, and what is counted at the end."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from rich.live import Live

from console.accounting import AccountImpossible, account, as_json
from console.demo import Options
from console.demo_releases import Releases
from console.demo_replay import Replay
from console.follow import Follower
from console.kept import Kept
from console.ledger import NAMED, Account
from console.live import Keys, Kill, State, picture, render
from console.parts import PartFailed, PartMissing
from console.performance import SHARES, Cast, DemoFailed, Performance
from console.scenery import Jobs, Servers, load_features, make_topics, seal_key, servers_up, topics_to_read
from dataflows.pipeline import Pipeline, load

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = ROOT / "deploy" / "pipelines"
KILL_AFTER = 0.7
"""Share of the events after which the picture's slot is killed."""
PICTURE_AFTER = 3.0
"""Seconds after that kill when the picture is drawn, if the lanes are back."""
TELL_EVERY = 2.0
"""Seconds between two lines of progress."""
_BEGAN = time.monotonic()


def run(options: Options) -> int:
    """Run the demo; 0 if every event was accounted for, 1 if not, 2 if it could not be played, 130 if interrupted."""
    if not (PIPELINES / options.pipeline / "pipeline.yaml").exists():
        _say(f"there is no {PIPELINES / options.pipeline / 'pipeline.yaml'}; --pipeline takes claims or payments")
        return 2
    folder = ROOT / ".penstock" / f"demo-{secrets.token_hex(4)}"
    folder.mkdir(parents=True, mode=0o700)
    try:
        with _sigterm_as_interrupt():
            summary, sentence = _play(options, folder)
    except KeyboardInterrupt:
        _say("interrupted; everything that was started has been ended")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    except (AccountImpossible, DemoFailed, PartFailed, PartMissing) as problem:
        _keep_logs(folder)
        _say(f"the demo stopped: {problem}\nits logs are in {folder}")
        return 2
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(summary) if options.headless else sentence, flush=True)
    return 0 if summary["unaccounted"] == 0 and summary["strange"] == 0 else 1


def _play(options: Options, folder: Path) -> tuple[dict[str, Any], str]:
    """The story: everything is started in the order of these lines, and ended in the reverse order whatever happens."""
    home = PIPELINES / options.pipeline
    pipeline = load(home / "pipeline.yaml")
    generator = import_module(f"deploy.pipelines.{options.pipeline}.{options.pipeline}")
    with ExitStack() as started:
        servers, keep = _servers(options, folder, started)
        _say(f"{servers.name}: {servers.why}; guarantee: {servers.guarantee.replace('_', ' ')}")
        make_topics(servers, pipeline, folder)
        key, file, artefacts = seal_key(), home / "pipeline.yaml", folder / "artefacts"
        engine = Jobs(pipeline, file, servers, slots=options.slots, key=key, artefacts=artefacts, folder=folder)
        started.callback(engine.stop)
        engine.start()
        _say(f"starting penstock run with {options.slots} slots; metrics on {engine.metrics}")
        if views := engine.names[1:]:
            _say(f"starting the jobs that compute its views, with a slot each: {', '.join(views)}")
        values = load_features(servers, pipeline, generator, options.seed, options.events)
        releases = Releases(home / "models", pipeline, servers.connection, artefacts)
        _say(f"{values:,} feature values are in Redis; published {releases.publish('1')}")
        _say("loading models and libraries (some seconds)")
        engine.wait_until_ready()
        _say("every slot is ready; the releases are being activated")
        releases.wait_until_in_force(alive=lambda: engine.running)
        _say("the releases are in force; events begin")
        follower = Follower(servers.connection, topics_to_read(pipeline)).start()
        started.callback(follower.stop)
        replay = _replay(options, pipeline, generator, servers, follower)
        started.callback(replay.stop)
        cast = Cast(pipeline.pipeline, servers.name, servers.guarantee, pipeline.policy.outcomes, options.events)
        half_way = partial(_publish_second, releases, pipeline, say=options.headless)
        performance = Performance(cast, replay, follower, engine, half_way=half_way)
        _perform(options, performance)
        cost = performance.state().kill
        engine.stop()
        account = _account(servers, pipeline, follower)
        keep(key)
    return _summary(options, servers, account, follower, replay), in_a_sentence(account, performance.kills, cost)


def _servers(options: Options, folder: Path, started: ExitStack) -> tuple[Servers, Callable[[str], None]]:
    """Start Kafka and Redis; gives them, and what makes them stay when the demo is over."""
    _say("starting Kafka and Redis")
    if not options.keep:
        return started.enter_context(servers_up(folder, _say)), lambda _: None
    program = Kept(folder)
    servers = started.enter_context(program)

    def keep(key: str) -> None:
        sealed = folder / "seal.key"
        sealed.touch(mode=0o600)
        sealed.write_text(key)
        program.keep()
        _say(
            f"Kafka stays at {servers.bootstrap} and Redis at {servers.redis}, until: kill {program.pid}\n"
            f"the folder {folder} stays too, also after that: it has the logs, the releases and, in {sealed.name},\n"
            "the key that opens what was held back; delete it when it is of no use any more"
        )

    return servers, keep


def _replay(
    options: Options, pipeline: Pipeline, generator: ModuleType, servers: Servers, follower: Follower
) -> Replay:
    planned = generator.stream(options.seed, options.events)
    sent = follower.latencies.sent
    return Replay(servers.connection, pipeline.topic("events"), planned, rate=options.rate, on_sent=sent)


def _publish_second(releases: Releases, pipeline: Pipeline, *, say: bool) -> str:
    delay = pipeline.activation_delay.total_seconds()
    text = f"{releases.publish('2')} goes live in {delay:.0f} s"
    if say:
        _say(f"published a release: {text}, without a stop")
    return text


def _perform(options: Options, performance: Performance) -> None:
    if not options.headless:
        with Keys() as keys, Live(screen=True, auto_refresh=False) as view:
            performance.play(lambda state: view.update(render(state), refresh=True), keys=keys)
        return
    told, drawn = [time.monotonic()], [options.picture is None]

    def tell(state: State) -> None:
        if not drawn[0] and state.kill is not None and state.kill.pause is not None and state.kill.ago > PICTURE_AFTER:
            drawn[0] = True
            _draw(options, state)
        if time.monotonic() - told[0] > TELL_EVERY:
            told[0] = time.monotonic()
            firsts = state.progress.read - state.progress.waiting
            _say(f"{state.sent:,} of {state.total:,} events sent, {firsts:,} have their first record")

    performance.play(tell, kill_after=KILL_AFTER if options.picture else None)
    if not drawn[0]:
        _draw(options, performance.state())


def _draw(options: Options, state: State) -> None:
    if options.picture is not None:
        options.picture.write_text(picture(state), encoding="utf-8")
        _say(f"wrote {options.picture}")


def _account(servers: Servers, pipeline: Pipeline, follower: Follower) -> Account:
    """Count everything once more from the first record on; the mock may have dropped what was read already."""
    if servers.kind != "kafka":
        return follower.account()
    return account(servers.connection, topics_to_read(pipeline))


def in_a_sentence(found: Account, kills: int, last: Kill | None) -> str:
    """What a person who watched wants to know at the end.

    Args:
        found: the account, counted from the topics.
        kills: how many slots were killed.
        last: what the last of them cost.
    """
    # The account names the first few of each kind and counts both together.
    lost = len(found.missing) if len(found.missing) < NAMED else found.unaccounted - len(found.repeated)
    told = f"{found.read:,} events: {lost:,} lost, {found.unaccounted - lost:,} decided twice"
    if found.strange:
        told += f", {found.strange:,} records that name no event"
    if kills and last is not None:
        pause = "its lanes had not come back" if last.pause is None else f"its lanes paused for {last.pause:.1f} s"
        told += f"; {'1 slot was' if kills == 1 else f'{kills} slots were'} killed; after the last kill {pause}"
    return f"{told}."


def _summary(options: Options, servers: Servers, found: Account, follower: Follower, replay: Replay) -> dict[str, Any]:
    first = follower.first_decision_at
    quantiles = zip(SHARES, follower.latencies.quantiles(*SHARES), strict=True)
    return {
        "pipeline": options.pipeline,
        **as_json(found),
        **{f"p{round(share * 100)}_ms": None if s is None else round(s * 1000, 1) for share, s in quantiles},
        "first_decision_s": None if first is None else round(first - _BEGAN, 1),
        "guarantee": servers.guarantee,
        "kafka": servers.kind,
        "slots": options.slots,
        "sent": replay.sent,
        "planned": dict(sorted(replay.kinds.items())),
    }


def _keep_logs(folder: Path) -> None:
    """Of a demo that failed, keep what says why."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            path.unlink()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """End in order when told to: SIGTERM unwinds like Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    print(f"{time.monotonic() - _BEGAN:5.1f} s  {text}", file=sys.stderr, flush=True)
