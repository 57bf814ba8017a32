"""The endpoint's side of probes: joins both halves of a curve and adds it to the store, once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..device_tokens import TokenVerifier
from ..errors import ProbeError, TokenError, UnknownModelError
from ..profile import Profile
from ..serving.plausible import curve_limits
from ..traffic import ImportanceSample, Store, TicketUse
from .messages import ProbeReport
from .tickets import Ticket, refuse


def take_report(
    store: Store,
    verifier: TokenVerifier,
    raw: object,
    *,
    per_hour: int = 60,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Check a report, add its curve to the store and return the JSON answer.

    If it raises, nothing is stored.

    Parameters:
        raw: the object under ``probe``.
        per_hour: curves that one device may add in an hour.

    Raises:
        WireError: ``raw`` is not a report.
        TicketError: the ticket is forged, expired, used before, or of another network, class or
            device.
        ProbeError: the values are impossible for this head.
        ProbeBudgetError: the device has added its curves of this hour.
        StoreError: the store cannot be used.
    """
    report = ProbeReport.from_json(raw)
    ticket = Ticket.read(verifier.secret, report.ticket, clock=clock)
    _check_subject(report, ticket)
    _check_device(verifier, ticket, report.device_token, clock)
    profile = _profile(store, ticket.network_hash)
    _check_points(report, ticket, profile)
    # Both halves are checked: the tail computed its half from what the device sent.
    curve = np.concatenate([np.array(report.values, np.float64), ticket.tail])
    _check_values(curve, profile)
    sample = ImportanceSample(
        class_id=ticket.class_id,
        curve=curve,
        source="probe",
        group=ticket.group,
        at=clock(),
        device=ticket.device,
    )
    use = TicketUse(ticket.probe, ticket.expires, per_hour)
    store.add_probe(ticket.network_hash, use, sample, classes=len(profile.classes))
    return {
        "accepted": True,
        "network_hash": ticket.network_hash,
        "class_id": ticket.class_id,
        "points": len(curve),
    }


def _check_subject(report: ProbeReport, ticket: Ticket) -> None:
    """Raise TicketError unless the report is about the ticket's network and class."""
    if report.network_hash != ticket.network_hash:
        refuse(
            "network",
            f"expected a report for network {ticket.network_hash}, got {report.network_hash}",
        )
    if report.class_id != ticket.class_id:
        refuse("class", f"expected values of class {ticket.class_id}, got class {report.class_id}")


def _check_points(report: ProbeReport, ticket: Ticket, profile: Profile) -> None:
    """Raise TicketError or ProbeError unless both halves make one curve of the profile."""
    classes = len(profile.classes)
    if not 0 <= ticket.class_id < classes:
        refuse("class", f"expected a class from 0 to {classes - 1}, got {ticket.class_id}")
    names = [point.name for point in profile.split_points]
    before = len(names) - len(ticket.tail)
    if names.index(ticket.cut.split_point) != before:
        refuse(
            "network",
            f"expected {len(names)} points, got {len(ticket.tail)} from "
            f"{ticket.cut.split_point!r} on",
        )
    if len(report.values) != before:
        raise ProbeError(
            f"expected {before} values, one for each point before the cut, got {len(report.values)}"
        )


def _check_device(
    verifier: TokenVerifier, ticket: Ticket, token: str | None, clock: Callable[[], float]
) -> None:
    device = None
    if token is not None:
        try:
            device = verifier.verify(token, clock=clock).hashed
        except TokenError as error:
            if ticket.device is not None:
                refuse("device", error.message)
    if device != ticket.device and ticket.device is not None:
        refuse("device", "expected the token of the device that asked for the probe")


def _profile(store: Store, network_hash: str) -> Profile:
    try:
        profile = store.profile(network_hash)
    except UnknownModelError as error:
        refuse("network", error.message)
    if profile is None:
        raise ProbeError(
            f"network {network_hash} has no profile, so no limits to its values are known"
        )
    return profile


def _check_values(curve: npt.NDArray[np.float64], profile: Profile) -> None:
    """Raise ProbeError for the first impossible value of a curve, shape (P,)."""
    for value, limit, point in zip(
        curve.tolist(), curve_limits(profile), profile.split_points, strict=True
    ):
        if not math.isfinite(value) or not 0.0 <= value <= limit:
            raise ProbeError(
                f"importance at {point.name!r}: expected 0 to {limit:.3g}, got {value}",
                split_point=point.name,
            )
