"""The tables of the store, and the steps from older schemas.

Everything is bounded: importance and outcome rows by networks x classes x groups (times a handful of sources, starts,
served points and codecs), served rows by served points x codecs x groups x buckets, and buckets are rolled up and
dropped (see :mod:`.flush`). There is no row for a single request anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Double, Integer, LargeBinary, MetaData, String, Table, Text

SCHEMA: Final = 1
"""The schema this version reads and writes. A newer store is refused, an older one is migrated."""

MIGRATIONS: Final[Mapping[int, Callable[[Connection], None]]] = {}
"""Steps by the schema they start from: ``MIGRATIONS[n]`` turns schema n into n + 1, inside the opening transaction."""

metadata = MetaData()

meta = Table(
    "isplit_meta",
    metadata,
    Column("key", String(32), primary_key=True),  # schema | revision | half_life_s
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
    Column("network", String(128), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

progress = Table(
    "isplit_progress",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("as_of", Double),
)

name = Table(
    "isplit_name",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("kind", String(16), primary_key=True),  # group | split_point | variant
    Column("name", String(128), primary_key=True),
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
    sqlite_with_rowid=False,  # read by ranges of the key
)

comoment = Table(
    "isplit_comoment",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("target", String(16), primary_key=True),
    Column("start", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("products", LargeBinary, nullable=False),
)

served = Table(
    "isplit_served",
    metadata,
    Column("network", String(128), primary_key=True),
    Column("split_point", String(128), primary_key=True),
    Column("variant", String(128), primary_key=True),
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
    Column("variant", String(128), primary_key=True),
    Column("device_group", String(128), primary_key=True),
    Column("class_id", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("seen", Double, nullable=False),
    Column("labelled", Double, nullable=False),
    Column("correct", Double, nullable=False),
    sqlite_with_rowid=False,  # read by ranges of the key
)
