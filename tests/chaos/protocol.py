"""The protocol of `dataflows/DELIVERY.md` as a set of states and steps, small enough to visit them all.

A model, not the engine: two slots, a group coordinator, a transaction coordinator, the logs of one or two lanes. Each
step of `successors` happens whole or not at all. Between any two of them a slot may die, its session may end, a lane
may move, the broker may time a transaction out, or a process that everybody thinks dead may go on committing. The check
by which a lane's state and offset are compared at opening (`operators/prefix.py`) is left out: the protocol must hold
without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SLOTS = 2
SCRIPTS = {
    "as it is": ("outputs+state", "offsets", "end"),
    "with a store": ("outputs+state", "offsets", "end", "store"),
    "offsets-outside": ("outputs+state", "end", "offsets", "end"),
    "state-outside": ("outputs", "offsets", "end", "state", "end"),
    "store-first": ("store", "outputs+state", "offsets", "end"),
    "stranger": ("outputs+state", "offsets", "end"),
}
"""What a commit does, step by step, in the protocol and in each broken form of it."""


class Part(NamedTuple):
    """What one lane has in a commit."""

    outputs: tuple[tuple[int, tuple[int, ...]], ...]
    """Event, and what the lane remembered when it was decided: all before it, if nothing is wrong."""
    state: tuple[int, ...]
    """Events that the lane remembers after it."""
    next: int


Parts = tuple[Part | None, ...]
"""Of each lane."""


class Commit(NamedTuple):
    """A commit under way, in a slot that lives or in one that is thought dead."""

    slot: int
    life: int
    epoch: int
    current: bool
    """Whether the group's generation is still the one that it was begun under."""
    step: int
    parts: Parts


class Open(NamedTuple):
    """A transaction that the broker has open."""

    outputs: Parts
    state: Parts
    offsets: tuple[int | None, ...]


class Slot(NamedTuple):
    """A living process."""

    life: int
    epoch: int
    """Of its producer; 0 before it is fenced."""
    lanes: tuple[tuple[int, tuple[int, ...] | None] | None, ...]
    """Lane to its next offset and what is remembered; None where it is not read, no memory before it is restored."""
    held: Parts
    commit: Commit | None


class World(NamedTuple):
    """Brokers and processes."""

    offsets: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
    state: tuple[tuple[int, ...], ...]
    store: tuple[tuple[tuple[int, ...], ...], ...]
    """Slot to lane to what its disk remembers."""
    epochs: tuple[int, ...]
    open: tuple[Open | None, ...]
    """Of each slot's transactional id."""
    members: tuple[int, ...]
    """Life that is the group's member for each slot; 0 where there is none."""
    owners: tuple[int, ...]
    """Lane to slot, -1 where nobody has it."""
    slots: tuple[Slot | None, ...]
    ghosts: tuple[Commit, ...]
    """Processes that are thought dead, of which nothing is left but a commit."""
    faults: int
    """How many more there may be."""


def beginning(lanes: int, faults: int) -> World:
    """Two slots that have just been started, and no event decided."""
    none: tuple[None, ...] = (None,) * lanes
    alive = (Slot(1, 0, none, none, None),) * SLOTS
    empty: tuple[tuple[int, ...], ...] = ((),) * lanes
    nobody, zeros = (-1,) * lanes, (0,) * SLOTS
    return World((0,) * lanes, empty, empty, (empty,) * SLOTS, zeros, (None,) * SLOTS, zeros, nobody, alive, (), faults)


def successors(world: World, script: tuple[str, ...], events: int, *, fenced: bool) -> Iterator[tuple[str, World]]:
    """Every step that can be taken from here: what happens, and the world after it.

    Args:
        world: where.
        script: what a commit does, from `SCRIPTS`.
        events: in each lane.
        fenced: whether the group looks who sends offsets, and a restarted slot is a member at once (static membership).
    """
    for label, following in _steps(world, script, events, fenced=fenced):
        yield label, _renumbered(following)


def _steps(world: World, script: tuple[str, ...], events: int, *, fenced: bool) -> Iterator[tuple[str, World]]:
    for number, slot in enumerate(world.slots):
        if slot is None:
            life = 1 + max(world.members[number], *(ghost.life for ghost in world.ghosts), 0)
            yield f"slot {number} starts", _with(world, number, Slot(life, 0, _nothing(world), _nothing(world), None))
            continue
        yield from _life(world, number, slot, events, fenced=fenced)
        if slot.commit is not None:
            yield from _step(world, slot.commit, script, fenced=fenced)
        elif any(slot.held):
            commit = Commit(number, slot.life, slot.epoch, True, 0, slot.held)
            yield (
                f"slot {number} begins a commit",
                _with(world, number, slot._replace(commit=commit, held=_nothing(world))),
            )
        if slot.life != world.members[number] != 0:
            yield f"the session of slot {number}'s past life ends", _expired(world, number)
    for ghost in world.ghosts:
        yield from _step(world, ghost, script, fenced=fenced)
    for lane, owner in enumerate(world.owners):
        for number in range(SLOTS) if owner < 0 else ():
            if world.members[number]:
                yield f"lane {lane} goes to slot {number}", _rebalanced(world, _put(world.owners, lane, number))
    if world.faults:
        yield from _faults(world._replace(faults=world.faults - 1))


def _life(world: World, number: int, slot: Slot, events: int, *, fenced: bool) -> Iterator[tuple[str, World]]:
    """What a slot does besides committing."""
    member = world.members[number]
    if not slot.epoch:
        epoch = world.epochs[number] + 1
        yield (
            f"slot {number} is fenced",
            _with(world, number, slot._replace(epoch=epoch))._replace(
                epochs=_put(world.epochs, number, epoch), open=_put(world.open, number, None)
            ),
        )
    fresh = not any(slot.lanes) and not any(slot.held) and slot.commit is None
    if fresh and member < slot.life and (fenced or not member):  # a dynamic member waits for its past life's session
        joined = world._replace(members=_put(world.members, number, slot.life))
        # A static member's new life is handed its last assignment; any other one begins a rebalance.
        yield f"slot {number} joins", joined if member else _rebalanced(joined, world.owners)
    if not member and any(slot.lanes):
        yield f"slot {number} learns that it lost its lanes, and leaves", _with(world, number, None)
    if member != slot.life:
        waiting: list[int] = []
    else:
        waiting = [lane for lane, owner in enumerate(world.owners) if owner == number and slot.epoch]
    for lane in waiting:
        if slot.lanes[lane] is None and not any(tx and tx.offsets[lane] is not None for tx in world.open):
            lanes = _put(slot.lanes, lane, (world.offsets[lane], None))
            yield f"slot {number} reads the offset of lane {lane}", _with(world, number, slot._replace(lanes=lanes))
    for lane, place in enumerate(slot.lanes):
        if place is None:
            continue
        following, memory = place
        if memory is None:
            restored = max(world.state[lane], world.store[number][lane], key=len)  # the disk, and the log's tail
            lanes = _put(slot.lanes, lane, (following, restored))
            yield f"slot {number} restores lane {lane}", _with(world, number, slot._replace(lanes=lanes))
        elif following < events:
            before = slot.held[lane]
            part = Part((*(before.outputs if before else ()), (following, memory)), (*memory, following), following + 1)
            decided = slot._replace(
                held=_put(slot.held, lane, part), lanes=_put(slot.lanes, lane, (following + 1, part.state))
            )
            yield f"slot {number} decides event {following} of lane {lane}", _with(world, number, decided)


def _step(world: World, commit: Commit, script: tuple[str, ...], *, fenced: bool) -> Iterator[tuple[str, World]]:
    """One step of a commit, as the broker answers it."""
    number, what = commit.slot, script[commit.step]
    label = f"slot {number}, life {commit.life}: {what}"
    if what == "store":
        store = tuple(
            part.state if part else kept for part, kept in zip(commit.parts, world.store[number], strict=True)
        )
        yield label, _after(world._replace(store=_put(world.store, number, store)), commit, script)
        return
    if world.epochs[number] != commit.epoch:
        yield f"{label}: fenced, leaves", _gone(world, commit)
        return
    tx = world.open[number] or Open(_nothing(world), _nothing(world), _nothing(world))
    if what == "end":
        yield label, _after(_ended(world, number, tx), commit, script)
        return
    if what == "offsets":
        if fenced and world.members[number] != commit.life:
            yield f"{label}: no member, leaves", _gone(world, commit)
            return
        if fenced and not commit.current:
            begun = script[: commit.step]
            start = len(begun) - begun[::-1].index("end") if "end" in begun else 0
            again = commit._replace(step=start, current=True)
            aborted = world._replace(open=_put(world.open, number, None))
            yield f"{label}: the generation moved on; aborts, again", _changed(aborted, commit, again)
            return
        tx = tx._replace(offsets=tuple(part.next if part else None for part in commit.parts))
    if "outputs" in what:
        tx = tx._replace(outputs=commit.parts)
    if "state" in what:
        tx = tx._replace(state=commit.parts)
    yield label, _after(world._replace(open=_put(world.open, number, tx)), commit, script)


def _ended(world: World, number: int, tx: Open) -> World:
    """The broker commits a transaction: all of it can be read."""
    return world._replace(
        open=_put(world.open, number, None),
        outputs=tuple(
            (*had, *part.outputs) if part else had for had, part in zip(world.outputs, tx.outputs, strict=True)
        ),
        state=tuple(part.state if part else had for had, part in zip(world.state, tx.state, strict=True)),
        offsets=tuple(had if at is None else at for had, at in zip(world.offsets, tx.offsets, strict=True)),
    )


def _faults(world: World) -> Iterator[tuple[str, World]]:
    for number, slot in enumerate(world.slots):
        if slot is not None:
            dead = _with(world, number, None)
            yield f"slot {number} is killed", dead
            if slot.commit is not None and not world.ghosts:
                yield f"slot {number} is thought dead and goes on committing", dead._replace(ghosts=(slot.commit,))
            if slot.commit is None and not any(slot.held):
                for lane, place in enumerate(slot.lanes):
                    if place is not None and world.members[number] == slot.life:
                        closed = _with(world, number, slot._replace(lanes=_put(slot.lanes, lane, None)))
                        owners = _put(world.owners, lane, -1)
                        yield f"lane {lane} is revoked from slot {number}", _rebalanced(closed, owners)
        if world.members[number]:
            yield f"the session of slot {number} ends", _expired(world, number)
        if world.open[number] is not None:
            yield (
                f"the transaction of slot {number} times out",
                world._replace(
                    open=_put(world.open, number, None), epochs=_put(world.epochs, number, world.epochs[number] + 1)
                ),
            )


def _expired(world: World, number: int) -> World:
    """The coordinator forgets a member; its process is not asked."""
    owners = tuple(-1 if owner == number else owner for owner in world.owners)
    return _rebalanced(world._replace(members=_put(world.members, number, 0)), owners)


def _rebalanced(world: World, owners: tuple[int, ...]) -> World:
    """A new generation: every commit that has begun was begun under an older one."""
    slots = tuple(
        slot._replace(commit=slot.commit._replace(current=False)) if slot and slot.commit else slot
        for slot in world.slots
    )
    ghosts = tuple(ghost._replace(current=False) for ghost in world.ghosts)
    return world._replace(owners=owners, slots=slots, ghosts=ghosts)


def _renumbered(world: World) -> World:
    """Count lives and epochs from 1 again: only whether two are equal matters, and so there are fewer worlds."""
    for number in range(SLOTS):
        slot = world.slots[number]
        commits = [c for c in (*world.ghosts, slot and slot.commit) if c and c.slot == number]
        lives = {world.members[number], slot.life if slot else 0, *(c.life for c in commits)} - {0}
        epochs = {world.epochs[number], slot.epoch if slot else 0, *(c.epoch for c in commits)} - {0}
        if max(lives, default=0) == len(lives) and max(epochs, default=0) == len(epochs):
            continue
        life, epoch = ({old: new for new, old in enumerate(sorted(s), 1)} | {0: 0} for s in (lives, epochs))

        def again(commit: Commit, life: dict[int, int] = life, epoch: dict[int, int] = epoch) -> Commit:
            return commit._replace(life=life[commit.life], epoch=epoch[commit.epoch])

        if slot:
            commit = again(slot.commit) if slot.commit else None
            world = _with(world, number, slot._replace(life=life[slot.life], epoch=epoch[slot.epoch], commit=commit))
        world = world._replace(
            members=_put(world.members, number, life[world.members[number]]),
            epochs=_put(world.epochs, number, epoch[world.epochs[number]]),
            ghosts=tuple(again(ghost) if ghost.slot == number else ghost for ghost in world.ghosts),
        )
    return world


def _after(world: World, commit: Commit, script: tuple[str, ...]) -> World:
    following = commit.step + 1
    return _changed(world, commit, commit._replace(step=following) if following < len(script) else None)


def _changed(world: World, commit: Commit, to: Commit | None) -> World:
    """A commit goes on, or is over, in whichever process makes it."""
    if commit in world.ghosts:
        return world._replace(ghosts=(to,) if to else ())
    slot = world.slots[commit.slot]
    assert slot is not None
    return _with(world, commit.slot, slot._replace(commit=to))


def _gone(world: World, commit: Commit) -> World:
    """The process that makes this commit leaves."""
    return world._replace(ghosts=()) if commit in world.ghosts else _with(world, commit.slot, None)


def _with(world: World, number: int, slot: Slot | None) -> World:
    return world._replace(slots=_put(world.slots, number, slot))


def _put(row: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg] -- a row of anything
    return (*row[:at], value, *row[at + 1 :])


def _nothing(world: World) -> tuple[None, ...]:
    return (None,) * len(world.owners)
