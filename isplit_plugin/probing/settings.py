"""Settings of probes: the section ``probes`` in the configuration of a tail and of the endpoint."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProbeReportSettings(BaseModel, extra="forbid", strict=True, frozen=True):
    """What the endpoint accepts.

    Attributes:
        per_hour: curves that one device may add within an hour, over all workers.
    """

    per_hour: int = Field(60, ge=0, le=1_000_000)


class ProbeSettings(BaseModel, extra="forbid", strict=True, frozen=True):
    """What a tail worker answers.

    Attributes:
        enabled: whether probes are answered.
        per_hour: probes of one device within an hour; all devices without a token count as one.
        cpu_budget: share of one CPU core that probes may take.
        rate: the largest share of its requests that a device is advised to follow with a probe.
    """

    enabled: bool = False
    per_hour: int = Field(60, ge=0, le=1_000_000)
    cpu_budget: float = Field(0.01, ge=0, le=1)
    rate: float = Field(0.05, ge=0, le=1)
