"""Int8 heads in a package: those that the profile was measured with, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import ArtifactError
from ...profile import Profile
from ...schema import Manifest

if TYPE_CHECKING:
    from ...network import Int8Heads


def deployed_int8_heads(
    profile: Profile, manifest: Manifest, heads: Int8Heads | None, *, pt2: bool
) -> Mapping[str, bytes]:
    """The int8 heads of the deployed split points, as ONNX.

    Raises ArtifactError where the profile was measured with a head that is not there, or with
    another one; and with ``pt2``, because torch heads are in float32.
    """
    own = {} if heads is None else heads.sha256()
    wanted = {name: sha for name, sha in profile.int8_heads.items() if name in manifest.deployed}
    for name, expected in wanted.items():
        if own.get(name) != expected:
            raise ArtifactError(
                f"int8 head of {name!r}: expected the one that the profile was measured with "
                f"({expected[:16]}), got {own.get(name, 'none')[:16]}; it is in the file "
                "NAME.heads.safetensors that isplit profile writes"
            )
    if wanted and pt2:
        raise ArtifactError(
            "torch heads are in float32, but the profile was measured with heads in int8: leave "
            "out --pt2-heads, or profile with --head-precision fp32"
        )
    return {name: heads.files[name] for name in wanted} if heads is not None else {}
