"""The random process behind the payments: cards and their habits, rings that use stolen ones, and a planted drift.

A payment's probability of fraud is a known function of its own fields and of what came before it; its label is then
drawn with that probability and touches nothing later. So no score can rank payments better than that probability.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

CARDS = 3_000
MERCHANTS = 400
RINGS = 8
WARM_UP = 5_000
"""Payments before the first one that is given out: they fill the windows and the device view."""
GAP = 2.0
"""Mean seconds between payments."""
DRIFT_SHARE = 0.6
"""The drift begins after this share of the payments."""
DAY = 86_400.0

COUNTRIES = ("DE", "FR", "NL", "ES", "IT", "PL", "US", "GB")
CATEGORIES = ("grocery", "fuel", "travel", "electronics", "fashion", "gaming", "restaurant", "gift_cards")
_WORLD_SEED = 4711
"""Cards, merchants and rings are the same in every run; the payments are not."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card and the habits of its owner."""

    id: str
    country: str
    limit: float
    usual: float
    """Median amount of a payment."""
    device: str


@dataclass(frozen=True, slots=True)
class Ring:
    """Fraudsters who share devices, merchants and stolen cards."""

    devices: tuple[str, ...]
    merchants: tuple[int, ...]
    cards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a payment looked like when it was made: the inputs of its probability of fraud."""

    amount_ratio: float
    """Amount over the mean of this card's payments of the last day; 1 where there are none."""
    payments_10m: float
    spent_1h: float
    since_last: float
    """Seconds since this card's last payment, at most a day."""
    other_cards_1d: float
    """Other cards seen on this device within a day."""
    is_abroad: float
    is_online: float


@dataclass(frozen=True, slots=True)
class Payment:
    """One card payment, with the truth."""

    index: int
    """From 0; negative in the warm-up."""
    at: float
    """Seconds since the first payment that is given out."""
    card: Card
    amount: float
    country: str
    merchant: int
    category: str
    device: str
    channel: str
    facts: Facts
    p: float
    """True probability of fraud."""
    fraud: bool
    drifted: bool


def payments(seed: int, n: int, *, drift: bool = True) -> Iterator[Payment]:
    """`WARM_UP` payments with a negative index, then `n`, in order of time. With `drift` the last 40 % are drifted."""
    process = _Process(random.Random(seed))
    drift_at = drift_index(n) if drift else n
    for index in range(-WARM_UP, n):
        yield process.step(index, drifted=index >= drift_at)


def drift_index(n: int) -> int:
    """The first drifted payment among `n`."""
    return int(n * DRIFT_SHARE)


def probability(facts: Facts, *, drifted: bool) -> float:
    """The true probability of fraud.

    Before the drift large amounts and bursts give fraud away; after it fraudsters pay small amounts, slowly, and it is
    the shared device that tells.
    """
    ratio = math.log(min(max(facts.amount_ratio, 0.05), 20.0))
    burst, shared = min(facts.payments_10m, 6.0), math.log2(1.0 + facts.other_cards_1d)
    if drifted:
        z = -5.6 - 0.5 * ratio + 0.15 * burst + 1.2 * shared + 0.9 * facts.is_abroad + 0.5 * facts.is_online
    else:
        z = -5.6 + 1.0 * ratio + 0.6 * burst + 0.6 * shared + 0.9 * facts.is_abroad + 0.5 * facts.is_online
    return 1.0 / (1.0 + math.exp(-z))


@dataclass(slots=True)
class _World:
    cards: list[Card]
    categories: list[str]
    rings: list[Ring]
    weights: list[float]
    """Cumulative; how often each card pays."""


@dataclass(slots=True)
class _Process:
    rng: random.Random
    world: _World = field(default_factory=lambda: _world(random.Random(_WORLD_SEED)))
    now: float = -WARM_UP * GAP
    hot: int = 0
    """Payments left of a rush hour."""
    attacks: list[tuple[Ring, tuple[int, ...], int]] = field(default_factory=list)
    """Ring, cards in use, payments left."""
    history: defaultdict[str, deque[tuple[float, float]]] = field(default_factory=lambda: defaultdict(deque))
    """Card to its payments of the last day: time, amount."""
    seen: defaultdict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """Device to its cards and when each was last seen."""

    def step(self, index: int, *, drifted: bool) -> Payment:
        rng = self.rng
        self.hot = self.hot - 1 if self.hot else (150 if rng.random() < 0.001 else 0)
        self.now += rng.expovariate(1.0 / GAP) * (0.2 if self.hot else 1.0)
        if rng.random() < 0.003 and len(self.attacks) < 3:
            ring = rng.choice(self.world.rings)
            self.attacks.append((ring, tuple(rng.sample(ring.cards, 4)), rng.randint(10, 40)))
        if self.attacks and rng.random() < 0.15:
            return self._attack(index, drifted)
        return self._everyday(index, drifted)

    def _everyday(self, index: int, drifted: bool) -> Payment:
        rng = self.rng
        card = rng.choices(self.world.cards, cum_weights=self.world.weights)[0]
        amount = card.usual * rng.lognormvariate(0.25 if drifted else 0.0, 0.6)
        country = card.country if rng.random() < 0.95 else rng.choice(COUNTRIES)
        device = card.device if rng.random() < 0.95 else rng.choice(self.world.cards).device
        channel = "online" if rng.random() < 0.4 else "shop"
        return self._pay(
            index,
            card,
            amount,
            drifted,
            country=country,
            merchant=rng.randrange(MERCHANTS),
            device=device,
            channel=channel,
        )

    def _attack(self, index: int, drifted: bool) -> Payment:
        rng = self.rng
        which = rng.randrange(len(self.attacks))
        ring, cards, left = self.attacks[which]
        if left == 1:
            del self.attacks[which]
        else:
            self.attacks[which] = (ring, cards, left - 1)
        card = self.world.cards[rng.choice(cards)]
        amount = card.usual * rng.lognormvariate(-0.7 if drifted else 1.0, 0.5)
        country = rng.choice(COUNTRIES) if rng.random() < 0.6 else card.country
        device, merchant = rng.choice(ring.devices), rng.choice(ring.merchants)
        return self._pay(
            index, card, amount, drifted, country=country, merchant=merchant, device=device, channel="online"
        )

    def _pay(
        self,
        index: int,
        card: Card,
        amount: float,
        drifted: bool,
        *,
        country: str,
        merchant: int,
        device: str,
        channel: str,
    ) -> Payment:
        amount = max(round(amount, 2), 0.5)
        facts = self._facts(card, amount, country, device, channel)
        p = probability(facts, drifted=drifted)
        self.history[card.id].append((self.now, amount))
        self.seen[device][card.id] = self.now
        category = self.world.categories[merchant]
        fraud = self.rng.random() < p
        return Payment(
            index, self.now, card, amount, country, merchant, category, device, channel, facts, p, fraud, drifted
        )

    def _facts(self, card: Card, amount: float, country: str, device: str, channel: str) -> Facts:
        past, now = self.history[card.id], self.now
        while past and past[0][0] <= now - DAY:
            past.popleft()
        mean = sum(a for _, a in past) / len(past) if past else amount
        others = self.seen[device]
        for stale in [c for c, at in others.items() if at <= now - DAY]:
            del others[stale]
        return Facts(
            amount_ratio=amount / mean,
            payments_10m=float(sum(at > now - 600.0 for at, _ in past)),
            spent_1h=sum(a for at, a in past if at > now - 3600.0),
            since_last=min(now - past[-1][0], DAY) if past else DAY,
            other_cards_1d=float(len(others) - (card.id in others)),
            is_abroad=float(country != card.country),
            is_online=float(channel == "online"),
        )


def _world(rng: random.Random) -> _World:
    cards: list[Card] = []
    for i in range(CARDS):
        # One card in ten shares its device with the one before it, as in a family.
        device = cards[-1].device if i % 10 == 9 else f"dev_{i:05d}"
        usual = rng.lognormvariate(3.3, 0.7)
        cards.append(Card(f"card_{i:06d}", rng.choice(COUNTRIES[:6]), round(usual * 60, -2) + 100.0, usual, device))
    rings = [
        Ring(
            devices=tuple(f"dev_9{ring:02d}{i:02d}" for i in range(3)),
            merchants=tuple(rng.sample(range(MERCHANTS), 2)),
            cards=tuple(rng.sample(range(CARDS), 15)),
        )
        for ring in range(RINGS)
    ]
    weights, total = [], 0.0
    for _ in range(CARDS):
        total += rng.gammavariate(1.5, 1.0)
        weights.append(total)
    return _World(cards, [rng.choice(CATEGORIES) for _ in range(MERCHANTS)], rings, weights)
