"""All targets, by name."""

from __future__ import annotations

from typing import Final

from .exit_targets import EXIT_TARGETS
from .file_targets import FILE_TARGETS
from .forwarder_targets import FORWARDER_TARGETS
from .server_targets import SERVER_TARGETS
from .target import Target
from .transform_targets import TRANSFORM_TARGETS
from .wire_targets import WIRE_TARGETS

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        *WIRE_TARGETS,
        *TRANSFORM_TARGETS,
        *FILE_TARGETS,
        *EXIT_TARGETS,
        *SERVER_TARGETS,
        *FORWARDER_TARGETS,
    )
}
