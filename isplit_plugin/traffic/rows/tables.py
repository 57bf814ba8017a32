"""The tables of the store.

Every table is bounded. Importance and outcome rows: networks x classes x groups, times a few
sources, starts and cuts. Served rows: cuts x groups x buckets, and buckets are rolled up and
dropped (:mod:`.served`). Device means: a number for each network (:mod:`.device`). Only
``isplit_request`` and ``isplit_ticket`` have rows for single requests; number and age bound them
(:mod:`.request`, :mod:`.ticket`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA: Final = 1
"""The schema that this version reads and writes. A store of any other schema is refused."""

metadata = MetaData()

meta = Table(
    "isplit_meta",
    metadata,
    Column("key", String(32), primary_key=True),  # schema | revision | half_life_s | store_id
    Column("value", BigInteger, nullable=False),
)

network = Table(
    "isplit_network",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("points", Integer, nullable=False),
    Column("mean0", LargeBinary, nullable=False),
    Column("profile", LargeBinary),
    Column("revision", BigInteger, nullable=False),  # of the last put that changed it
)

model = Table(
    "isplit_model",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("network", String(128), primary_key=True),
    Column("manifest", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),  # of the last put that changed it
    Column("as_of", Double),  # epoch seconds of its newest request
    Column("recent", Double, nullable=False),  # its requests, decayed within hours
)

progress = Table(
    "isplit_progress",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("as_of", Double),
    Column("resumed", Double),  # when traffic went on after its last gap
    Column("horizon", Double),  # the time from which ages are counted where rows are deleted
    Column("requests", BigInteger, nullable=False, server_default="0"),  # that wait for labels
    Column("moved_deltas", BigInteger, nullable=False, server_default="0"),
    Column("rewritten", BigInteger, nullable=False),  # revision of the last loss of rows
)

name = Table(
    "isplit_name",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("kind", String(16), primary_key=True),  # of NAME_LIMITS
    Column("name", String(128), primary_key=True),
    Column("seen", BigInteger, nullable=False),  # epoch seconds of the hour of its last use
)

importance = Table(
    "isplit_importance",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("target", String(16), primary_key=True),
    Column("start", Integer, primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("moments", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),  # of its last change
    Index("isplit_importance_revision", "network", "revision"),
    sqlite_with_rowid=False,  # read by ranges of the key
)

served = Table(
    "isplit_served",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("split_point", String(128), primary_key=True),
    Column("codec", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("span_s", Integer, primary_key=True),  # 3600 | 86400
    Column("bucket", BigInteger, primary_key=True),  # epoch seconds of its begin
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("drops", BigInteger, nullable=False),
    Column("times", LargeBinary, nullable=False),
)

outcome = Table(
    "isplit_outcome",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("split_point", String(128), primary_key=True),
    Column("codec", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("predictions", Double, nullable=False),
    Column("labelled", Double, nullable=False),
    Column("correct", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("weight_correct", Double, nullable=False),
    Column("weight2", Double, nullable=False),
    Column("revision", BigInteger, nullable=False),  # of its last change
    Index("isplit_outcome_revision", "network", "revision"),
    sqlite_with_rowid=False,  # read by ranges of the key
)

device_bucket = Table(
    "isplit_device_bucket",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("bucket", BigInteger, primary_key=True),  # epoch seconds of its begin
    Column("target", String(16), primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("device", String(64), primary_key=True),  # a hash, or the name of a shared one
    Column("device_group", String(128), nullable=False),
    Column("source", String(16), nullable=False),
    Column("start", Integer, nullable=False),
    Column("sums", LargeBinary, nullable=False),
    sqlite_with_rowid=False,  # read by ranges of the key
)

device_sketch = Table(
    "isplit_device_sketch",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("target", String(16), primary_key=True),
    Column("start", Integer, primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column(
        "means", BigInteger, nullable=False
    ),  # means of devices in the count of the importance row
    Column("sketch", LargeBinary, nullable=False),
    sqlite_with_rowid=False,  # read by ranges of the key
)

device_hours = Table(
    "isplit_device_hours",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("target", String(272), primary_key=True),  # of a curve, or see device_hours.py
    Column("class_id", Integer, primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("level", Double, nullable=False),  # see device_hours.py
    Index("isplit_device_hours_level", "network", "level"),
    sqlite_with_rowid=False,  # read by ranges of the key
)

device_class = Table(
    "isplit_device_class",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("bucket", BigInteger, primary_key=True),  # epoch seconds of its begin
    Column("device", String(64), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),  # of requests
    sqlite_with_rowid=False,  # read by ranges of the key
)

device_label = Table(
    "isplit_device_label",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("bucket", BigInteger, primary_key=True),  # epoch seconds of its begin
    Column("device", String(64), primary_key=True),
    Column("split_point", String(128), primary_key=True),
    Column("codec", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("class_id", Integer, primary_key=True),  # predicted
    Column("labelled", BigInteger, nullable=False),
    Column("correct", BigInteger, nullable=False),
    sqlite_with_rowid=False,  # read by ranges of the key
)

mix = Table(
    "isplit_mix",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("weight", Double, nullable=False),
    Column("weight2", Double, nullable=False),
    sqlite_with_rowid=False,  # read by ranges of the key
)

request = Table(
    "isplit_request",
    metadata,
    Column("request", String(32), primary_key=True),  # a hash of the id, see request.py
    Column("network", String(128), nullable=False),
    Column("at", Double, nullable=False),
    Column("split_point", String(128), nullable=False),
    Column("codec", String(128), nullable=False),
    Column("class_id", Integer, nullable=False),  # predicted
    Column("device_group", String(128), nullable=False),
    Column("device", String(64), nullable=False),  # a hash, or the name of a shared one
    Column("label", Integer),
    Index("isplit_request_at", "network", "at"),
    Index("isplit_request_device", "network", "device", "at"),
)

standing = Table(
    "isplit_standing",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("network", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("number", BigInteger, nullable=False),  # of changes so far
    Column("state", Text, nullable=False),
)

change = Table(
    "isplit_change",
    metadata,
    Column("model", String(256), primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("network", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("at", Double, nullable=False),
    Column("entry", Text, nullable=False),
)

ticket = Table(
    "isplit_ticket",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("probe", String(64), primary_key=True),
    Column("device", String(64), nullable=False),  # a hash, or the name of a shared one
    Column("used_at", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Index("isplit_ticket_device", "network", "device", "used_at"),
)

exit_sums = Table(
    "isplit_exit_sums",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("split_point", String(128), primary_key=True),
    Column("codec", String(128), primary_key=True),
    Column("photos", BigInteger, nullable=False),  # that entered the sums, not decayed
    Column("written", Double, nullable=False),  # epoch seconds of the store's clock
    Column("sums", LargeBinary, nullable=False),
)

exit_class = Table(
    "isplit_exit_class",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("split_point", String(128), primary_key=True),
    Column("codec", String(128), primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("photos", BigInteger, nullable=False),  # that entered the sums, not decayed
    Column("devices", LargeBinary, nullable=False),  # a sketch
)

exit_version = Table(
    "isplit_exit",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("exit", String(64), primary_key=True),  # the hash of its content
    Column("split_point", String(128), nullable=False),
    Column("codec", String(128), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("photos", BigInteger, nullable=False),  # behind the sums that it was made from
    Column("number", Integer, nullable=False),  # of releases so far
    Column("release", LargeBinary, nullable=False),  # what devices may do now, signed
    Column("state", Text, nullable=False),  # of each class
    Column("ended", String(16), nullable=False),  # empty | withdrawn | superseded
)

exit_count = Table(
    "isplit_exit_count",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("exit", String(64), primary_key=True),
    Column("kind", String(8), primary_key=True),  # shadow | audit
    Column("class_id", Integer, primary_key=True),
    Column("bin", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("agreeing", BigInteger, nullable=False),
)

exit_voice = Table(
    "isplit_exit_voice",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("voice", String(32), primary_key=True),  # a hash, see exits.py
    Column("hour", BigInteger, nullable=False),  # epoch seconds of its begin
    Index("isplit_exit_voice_hour", "network", "hour"),
)
