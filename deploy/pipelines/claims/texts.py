"""Invented words for the claims: contacts and descriptions made by Faker with a seed, some with personal data in them.

Faker takes 30 to 300 microseconds for one value, so it fills pools once; an event then picks from them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from faker import Faker

PEOPLE = 400
PLACES = 300

_STORIES = {
    "Auto": (
        "Another car ran into ours on {street} in {city}. The {part} is damaged.",
        "Parked in {street}, {city}; when I came back the {part} was dented and nobody was there.",
        "I braked late at the lights in {city} and hit the car in front. Damage to the {part}.",
        "Hail in {city} last {day}: the {part} has to be replaced, the garage says.",
        "A branch fell on the car in {street} during the storm. The {part} is scratched.",
    ),
    "Home": (
        "A pipe burst in the {part} of our house in {street}, {city}; the floor below is wet too.",
        "The storm of last {day} took tiles off the roof in {city}, and rain came into the {part}.",
        "Fire in the {part}, put out by the fire brigade of {city}. Smoke damage in the whole house.",
        "Somebody broke in through the {part} in {street} while we were away over the {day}.",
        "Lightning hit the house in {city}; the wiring of the {part} is burnt.",
    ),
}
_PARTS = {
    "Auto": (
        "front bumper",
        "rear bumper",
        "left door",
        "right door",
        "windscreen",
        "bonnet",
        "tailgate",
        "left mirror",
    ),
    "Home": ("kitchen", "bathroom", "cellar", "attic", "living room", "bedroom", "garage", "conservatory"),
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "weekend")
_LEAKS = {
    "email": "Please write to {} about it.",
    "phone": "You can call me on {} in the evening.",
    "credit_card": "I paid the tow truck with my card {}.",
    "us_ssn": "My social security number is {} if you need it.",
    "iban": "Please pay the money to {}.",
}
PII_TYPES = tuple(_LEAKS)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who does not exist."""

    name: str
    email: str
    phone: str


class Texts:
    """Pools of invented words. The same seed gives the same words; picking is up to the caller's `rng`."""

    def __init__(self, seed: int) -> None:
        fake = Faker("en_US")
        fake.seed_instance(seed)
        rng = random.Random(seed)
        self.people = tuple(_person(fake, rng) for _ in range(PEOPLE))
        self._streets = tuple(fake.street_name() for _ in range(PLACES))
        self._cities = tuple(fake.city() for _ in range(PLACES))
        self._ssns = tuple(fake.ssn() for _ in range(50))

    def story(self, rng: random.Random, line: str) -> str:
        """A description of what happened, with nothing personal in it that a pattern could find."""
        return rng.choice(_STORIES[line]).format(
            street=rng.choice(self._streets),
            city=rng.choice(self._cities),
            part=rng.choice(_PARTS[line]),
            day=rng.choice(_DAYS),
        )

    def leak(self, rng: random.Random, kind: str) -> str:
        """A sentence that gives away personal data of the type `kind`, one of `PII_TYPES`."""
        return _LEAKS[kind].format(self._secret(rng, kind))

    def _secret(self, rng: random.Random, kind: str) -> str:
        if kind == "email":
            return rng.choice(self.people).email
        if kind == "phone":
            return _phone(rng)
        if kind == "credit_card":
            return credit_card(rng)
        if kind == "us_ssn":
            return rng.choice(self._ssns)
        return iban(rng)


def _person(fake: Faker, rng: random.Random) -> Person:
    first, last = fake.first_name(), fake.last_name()
    return Person(f"{first} {last}", f"{first}.{last}@{rng.choice(_MAIL)}".lower(), _phone(rng))


_MAIL = ("example.com", "example.org", "example.net")
_AREAS = ("202", "212", "303", "312", "404", "415", "512", "617", "702", "808")


def _phone(rng: random.Random) -> str:
    """A number of the block 555-0100 to 555-0199, which is kept for fiction."""
    return f"({rng.choice(_AREAS)}) 555-01{rng.randrange(100):02d}"


def credit_card(rng: random.Random) -> str:
    """Sixteen digits with a right Luhn check digit, in groups of four."""
    digits = [4, *(rng.randrange(10) for _ in range(14))]
    digits.append(-luhn_sum([*digits, 0]) % 10)
    return " ".join("".join(map(str, digits[i : i + 4])) for i in range(0, 16, 4))


def luhn_sum(digits: Sequence[int]) -> int:
    """Sum of ISO/IEC 7812-1 annex B; a multiple of 10 for a valid number."""
    doubled = [d * 2 if i % 2 else d for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled)


def iban(rng: random.Random) -> str:
    """A German account number with right check digits (ISO 13616: mod 97 of the rearranged number is 1)."""
    account = "".join(str(rng.randrange(10)) for _ in range(18))
    check = 98 - int(f"{account}131400") % 97  # D = 13, E = 14, check digits 00
    return f"DE{check:02d}{account}"
