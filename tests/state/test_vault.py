import base64
import copy
import pickle

import pytest

from state.vault import KeyRefused, SealBroken, Vault


def test_vault_opens_what_it_sealed():
    vault = Vault.from_base64(Vault.generate())

    sealed = vault.seal(b"Ann, 555 0100", b"claims-0-7")

    assert b"Ann" not in sealed
    assert vault.open(sealed, b"claims-0-7") == b"Ann, 555 0100"


def test_vault_never_seals_twice_alike():
    vault = Vault.from_base64(Vault.generate())

    assert len({vault.seal(b"x", b"a") for _ in range(100)}) == 100


def test_vault_refuses_an_envelope_of_another_origin():
    vault = Vault.from_base64(Vault.generate())
    sealed = vault.seal(b"x", b"claims-0-7")

    with pytest.raises(SealBroken, match="another origin"):
        vault.open(sealed, b"claims-0-8")


@pytest.mark.parametrize("place", [0, 1, 8, 9, 20, 21, -16, -1])
def test_vault_refuses_a_changed_byte_anywhere(place):
    vault = Vault.from_base64(Vault.generate())
    sealed = bytearray(vault.seal(b"xyz", b"a"))
    sealed[place] ^= 1

    with pytest.raises(SealBroken):
        vault.open(bytes(sealed), b"a")


@pytest.mark.parametrize("length", range(40))
def test_vault_refuses_a_cut_envelope(length):
    vault = Vault.from_base64(Vault.generate())

    with pytest.raises(SealBroken):
        vault.open(vault.seal(b"xyz", b"a")[:length][:39], b"a")


def test_vault_rotates_keys():
    old, new = Vault.generate(), Vault.generate()
    sealed = Vault.from_base64(old).seal(b"x", b"a")
    both = Vault.from_base64(f"{new}\n{old}\n")

    assert both.open(sealed, b"a") == b"x"
    assert both.key_id == Vault.from_base64(new).key_id
    with pytest.raises(SealBroken, match=Vault.from_base64(old).key_id):
        Vault.from_base64(new).open(sealed, b"a")


def test_vault_shows_no_key(tmp_path):
    text = Vault.generate()
    vault = Vault.from_base64(text)
    raw = base64.b64decode(text)

    assert text not in repr(vault)
    assert raw.hex() not in repr(vault)
    assert repr(raw)[2:10] not in repr(vault)
    for spread in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="never pickled"):
            spread(vault)


@pytest.mark.parametrize(
    "text, says", [("", "no seal key"), ("c2hvcnQ=", "has 5 bytes, expected 32"), ("%secret%", "not base64")]
)
def test_vault_says_what_is_wrong_with_a_key_without_quoting_it(text, says):
    with pytest.raises(KeyRefused, match=says) as raised:
        Vault.from_base64(text)

    assert "head -c 32 /dev/urandom" in str(raised.value)
    assert not text or text not in str(raised.value)


def test_vault_reads_a_key_file(tmp_path):
    path = tmp_path / "seal.key"
    path.write_text(Vault.generate() + "\n")

    assert Vault.from_file(path).key_id == Vault.from_base64(path.read_text()).key_id
    with pytest.raises(KeyRefused, match="No such file"):
        Vault.from_file(tmp_path / "nothing")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyRefused, match="not base64"):
        Vault.from_file(path)


def test_vault_derives_a_key_for_each_purpose():
    text = Vault.generate()

    assert Vault.from_base64(text).derive(b"tokens") == Vault.from_base64(text).derive(b"tokens")
    assert Vault.from_base64(text).derive(b"tokens") != Vault.from_base64(text).derive(b"other")
    assert len(Vault.from_base64(text).derive(b"tokens")) == 32
