"""Exits: the device answers by itself from the pooled activation, class by class, once that is
proven.

Pure: no torch, no store, no clock. :class:`ExitSums` collect what the full network answered,
:func:`fit_exit` makes an :class:`Exit` of them, :func:`sign` and :func:`read_signed` carry it to a
device, :func:`proven_groups` says from counts of shadow answers which classes may be answered, and
:class:`Audits` when that has to end.
"""

from __future__ import annotations

from .audits import DETECTORS, EXPOSURE, FALSE_ALARM, LEAST_SHARE, Audits, audit_share
from .discriminants import Discriminants, discriminants
from .evidence import chance_interval, evidence_above, evidence_below, trials_missing
from .exit import BIN_EDGES, BINS, MAX_EXIT_BYTES, NONE, Exit, ExitAnswer, bin_of
from .features import (
    GRID_FEATURES,
    MAX_FEATURES,
    POOLINGS,
    Pooling,
    feature_count,
    pool,
    usual_pooling,
)
from .fitting import LIFETIME_S, MIN_WEIGHT, REACH, fit_exit, usual_shrinkage
from .release import (
    ALPHA,
    LEAST_ANSWERS,
    STARTS,
    TOLERANCE,
    Promise,
    ProvenGroup,
    ShadowCounts,
    may_be_released,
    missing,
    proven_groups,
    version_alpha,
)
from .signing import (
    MAX_SIGNED_BYTES,
    new_keys,
    public_key_of,
    public_key_path,
    read_private_key,
    read_public_key,
    read_signed,
    sign,
    unsigned,
    verify,
)
from .statements import MIN_VERSION, ClassRelease, ExitRelease, ExitStatement
from .sums import MAX_CLASSES, MAX_SUMS_BYTES, ExitSums

__all__ = [
    "ALPHA",
    "BINS",
    "BIN_EDGES",
    "DETECTORS",
    "EXPOSURE",
    "FALSE_ALARM",
    "GRID_FEATURES",
    "LEAST_ANSWERS",
    "LEAST_SHARE",
    "LIFETIME_S",
    "MAX_CLASSES",
    "MAX_EXIT_BYTES",
    "MAX_FEATURES",
    "MAX_SIGNED_BYTES",
    "MAX_SUMS_BYTES",
    "MIN_VERSION",
    "MIN_WEIGHT",
    "NONE",
    "POOLINGS",
    "REACH",
    "STARTS",
    "TOLERANCE",
    "Audits",
    "ClassRelease",
    "Discriminants",
    "Exit",
    "ExitAnswer",
    "ExitRelease",
    "ExitStatement",
    "ExitSums",
    "Pooling",
    "Promise",
    "ProvenGroup",
    "ShadowCounts",
    "audit_share",
    "bin_of",
    "chance_interval",
    "discriminants",
    "evidence_above",
    "evidence_below",
    "feature_count",
    "fit_exit",
    "may_be_released",
    "missing",
    "new_keys",
    "pool",
    "proven_groups",
    "public_key_of",
    "public_key_path",
    "read_private_key",
    "read_public_key",
    "read_signed",
    "sign",
    "trials_missing",
    "unsigned",
    "usual_pooling",
    "usual_shrinkage",
    "verify",
    "version_alpha",
]
