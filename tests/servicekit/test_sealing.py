"""What is sealed opens only in its place and with its key, also under the keys of earlier times."""

import base64
import secrets

import pytest

from servicekit.sealing import BlindIndex, DataKeys, SealBrokenError, Sealed, data_keys

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)


def test_a_ciphertext_opens_only_in_its_row_and_with_its_key() -> None:
    before, after = DataKeys({"old": OLD}), DataKeys({"new": NEW, "old": OLD})
    sealed = before.seal(b"13800000000", "row 1")
    assert b"138" not in sealed.data
    assert after.open(sealed, "row 1") == b"13800000000"
    assert before.seal(b"13800000000", "row 1") != sealed
    altered = Sealed("old", sealed.data[:-1] + bytes([sealed.data[-1] ^ 1]))
    for keys, wrong, row in ((before, sealed, "row 2"), (before, altered, "row 1"), (before, after.seal(b"x", "row 1"), "row 1")):
        with pytest.raises(SealBrokenError):
            keys.open(wrong, row)


def test_what_an_earlier_installation_sealed_stays_readable() -> None:
    keys = DataKeys({"k1": bytes(range(32))})
    stored = base64.b64decode("AAECAwQFBgcICQoLdjHuK/XV8iu9caeOJyDzAtWPsfA2dGOtKIFo")
    assert keys.open(Sealed("k1", stored), "accounts.phone 1") == b"13800000000"


def test_the_first_key_of_the_setting_seals_and_no_two_have_one_id() -> None:
    text = ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in (("k2", NEW), ("k1", OLD)))
    keys = data_keys(text)
    assert (keys.key_id, keys.older_key_ids) == ("k2", ["k1"])
    assert keys.open(DataKeys({"k1": OLD}).seal(b"x", "row"), "row") == b"x"
    with pytest.raises(ValueError, match="one id"):
        data_keys(f"{text},k1:{base64.b64encode(NEW).decode()}")


def test_a_digest_is_the_same_for_the_same_key_purpose_and_parts_alone() -> None:
    index = BlindIndex(b"i" * 32)
    assert index.digest("phone", "a", "b") == BlindIndex(b"i" * 32).digest("phone", "a", "b")
    others = [index.digest("code", "a", "b"), index.digest("phone", "ab"), BlindIndex(b"j" * 32).digest("phone", "a", "b")]
    assert index.digest("phone", "a", "b") not in others
