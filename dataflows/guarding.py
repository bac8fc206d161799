"""What the guard may do to which field: whether what a pipeline asks of it can be done, and leaves what others need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dataflows.locate import Path
from dataflows.pipeline import WITHHELD, GuardSpec
from dataflows.wording import Complaint
from operators.contract import ContractSpec

_TEXT_ONLY = ("mask", "tokenise")
_KEY_KINDS = ("string", "integer")
_REGIONS = (
    "AC AD AE AF AG AI AL AM AO AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BW BY BZ CA CC "
    "CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB "
    "GD GE GF GG GH GI GL GM GN GP GQ GR GT GU GW GY HK HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH "
    "KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV "
    "MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PR PS PT PW PY QA RE RO RS RU RW SA SB "
    "SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TA TC TD TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG US "
    "UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW"
)
PHONE_REGIONS = frozenset(_REGIONS.split())
"""The regions that libphonenumber knows, which takes a while to import; a test keeps them the same."""


def guard_complaints(guard: GuardSpec, contract: ContractSpec, hidden: Callable[[str], bool]) -> Iterator[Complaint]:
    """What the guard cannot do, or must not.

    Args:
        guard: the section.
        contract: whose fields it is about.
        hidden: whether a name may belong to a field that could not be read.
    """
    path: Path
    for i, region in enumerate(guard.phone_regions):
        if region not in PHONE_REGIONS:
            what, path = f"no phone region is called '{region}'", ("guard", "phone_regions", i)
            yield Complaint(path, what, "a country such as US, GB or DE", region, PHONE_REGIONS)
    for role in ("event_id", "entity", "event_time"):
        name = getattr(contract, role)
        if (action := guard.action(name)) in WITHHELD:
            path = ("guard", "fields", name) if name in guard.fields else ("guard", "default")
            what = f"the guard {WITHHELD[action]} '{name}', which is the {role}"
            yield Complaint(path, what, "allow, tokenise or scan" if role != "event_time" else "allow or scan")
    for name, action in guard.fields.items():
        path = ("guard", "fields", name)
        if name not in contract.fields:
            if not hidden(name):
                what = f"the contract has no field '{name}'"
                yield Complaint(path, what, "a field of the contract", name, tuple(contract.fields))
        elif action in _TEXT_ONLY and (kind := contract.fields[name].type) != "string":
            what = f"'{name}' is a {kind}, and only a string can be changed to {action}"
            yield Complaint(path, what, "allow or drop")


def key_complaint(path: Path, key: str, kind: str, action: str, *, loaded: bool) -> Iterator[Complaint]:
    """Why a field cannot be the key of a view: what is stored under it would never be found.

    What is not `loaded` is computed after the guard, too, and so is stored under the same token.
    """
    if action in WITHHELD:
        what = f"the guard {WITHHELD[action]} '{key}', so nothing can be looked up with it"
        yield Complaint(path, what, "a field that is allowed or scanned")
    elif action == "tokenise" and loaded:
        what = f"the guard tokenises '{key}', and what is loaded is stored under the value itself, so it is never found"
        yield Complaint(path, what, "a field that is allowed or scanned")
    elif kind not in _KEY_KINDS:
        yield Complaint(path, f"'{key}' is a {kind}, and a view is looked up by text or by a whole number",
                        f"a field of type {' or '.join(_KEY_KINDS)}")  # fmt: skip
