"""Owns the proof that what an outbox row holds is what was put in, whichever version wrote it."""

import ormsgpack

from penstock.contracts.envelope import Outgoing
from services.orchestrator.shell.outbox import pack, unpack

RECORDS = [
    Outgoing(topic="a.v1", partition=3, key=b"order-1", value=b'{"n":1}' * 500, headers=[("ce_id", b"1")]),
    Outgoing(topic="b.v1", partition=None, key=None, value=b"", headers=[]),
]


def test_records_are_read_back_as_they_were_packed() -> None:
    # given records of one batch
    packed = pack(RECORDS)
    # then what they repeat is stored once
    assert len(packed) < 500
    # and they are all there
    assert unpack(packed) == RECORDS


def test_a_row_of_before_rows_were_compressed_is_sent_as_well() -> None:
    # given a row that an earlier version left behind
    plain = ormsgpack.packb([(r.topic, r.partition, r.key, r.value, r.headers) for r in RECORDS])
    # when its new owner reads it, then nothing is missing
    assert unpack(plain) == RECORDS
