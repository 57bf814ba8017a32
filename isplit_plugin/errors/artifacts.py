"""Networks, files and data that cannot be used."""

from __future__ import annotations

from .base import IsplitError


class CaptureError(IsplitError):
    """A network cannot be loaded, captured, moved to a device or exported."""

    status = 422
    code = "capture_failed"


class SplitPointError(CaptureError):
    """A tensor is not a split point, or the split point does not allow the operation.

    In the first case ``details`` hold ``live``, the names of the live tensors, and ``before`` and
    ``after``, the nearest split points.
    """

    code = "invalid_split_point"


class ArtifactError(IsplitError):
    """A file is missing, damaged, of another kind or of a newer format, or cannot be written."""

    status = 422
    code = "bad_artifact"


class BundleError(ArtifactError):
    """A head bundle or model archive is damaged or incomplete, or its head cannot be run."""

    code = "bad_bundle"


class ExitError(ArtifactError):
    """An exit cannot be used: damaged, forged, expired, or of another network or class list.

    ``details["reason"]`` is "malformed", "forged", "expired", "network" or "class"; for an exit
    that cannot be fitted "evidence" or "singular".
    """

    code = "bad_exit"


class SecretError(ArtifactError):
    """A secret or key file is missing, too short, readable by others, or cannot be made."""

    code = "bad_secret"


class ProfileError(ArtifactError):
    """A profile is damaged or inconsistent, or belongs to another network."""

    code = "bad_profile"


class DataError(IsplitError):
    """Photos, labels, tensors or settings do not fit the network or the measurement."""

    status = 422
    code = "bad_data"
