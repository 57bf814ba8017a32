"""Settings of probes: the section ``probes`` in the configuration of a tail and of the endpoint."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProbeReportSettings(BaseModel):
    """What the endpoint accepts.

    Attributes:
        per_hour: curves that one device may add within an hour, over all workers.
    """

    model_config = _STRICT

    per_hour: Annotated[int, Field(ge=0, le=1_000_000)] = 60


class ProbeSettings(BaseModel):
    """What a tail worker answers.

    Attributes:
        enabled: whether probes are answered.
        per_hour: probes of one device within an hour; all devices without a token count as one.
        cpu_budget: share of one CPU core that probes may take.
        rate: the largest share of its requests that a device is advised to follow with a probe.
    """

    model_config = _STRICT

    enabled: bool = False
    per_hour: Annotated[int, Field(ge=0, le=1_000_000)] = 60
    cpu_budget: Annotated[float, Field(ge=0, le=1)] = 0.01
    rate: Annotated[float, Field(ge=0, le=1)] = 0.05
