"""Build what is deployed: the model archive for TorchServe, the head bundle for devices, the endpoint's archive.

An archive holds the weights once (``network.pt2``) and serves every deployed split point from it. ``manifest.json``
carries the SHA-256 of every other file. Files appear whole or not at all: they are built aside and renamed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from ..errors import BundleError, ProfileError, ServingError, UnknownCodecError, UnknownSplitPointError
from ..profile import Profile
from ..schema import INPUT, OUTPUT, Manifest, Preprocessing
from ..wire import CODECS, IMAGE_CODECS
from .resources import config_file, handler_file

if TYPE_CHECKING:
    from ..network import CapturedNetwork

MANIFEST: Final = "manifest.json"
NETWORK: Final = "network.pt2"
PROFILE: Final = "profile.safetensors"
ENDPOINT_MODEL: Final = "isplit"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class Built:
    """What :func:`package` wrote. ``warnings``: sentences for the operator; nothing in them stops the model."""

    archive: Path
    bundle: Path
    endpoint: Path
    manifest: Manifest
    warnings: tuple[str, ...]


def package(
    net: CapturedNetwork,
    *,
    profile: Profile,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    model: str | None = None,
    version: str = "1.0",
    deployed: Sequence[str] | None = None,
    codecs: Sequence[str] | None = None,
    default: tuple[str, str] | None = None,
    pt2: bool = False,
    include_output: bool = True,
    config: Mapping[str, Any] | None = None,
    out_dir: str | Path = "model_store",
) -> Built:
    """The three files that belong together: archive, head bundle and the endpoint's archive.

    ``deployed=None`` takes the measured points worth deploying (see :func:`choose_deployed`). Other parameters and
    errors: :func:`build_archive` and :func:`build_head_bundle`.
    """
    manifest, warnings = make_manifest(
        net,
        model=model or profile.model,
        version=version,
        profile=profile,
        preprocessing=preprocessing,
        classes=classes,
        deployed=deployed,
        codecs=codecs,
        default=default,
    )
    archive = build_archive(net, manifest=manifest, profile=profile, config=config, out_dir=out_dir)
    bundle = build_head_bundle(net, manifest=manifest, pt2=pt2, include_output=include_output, out_dir=out_dir)
    return Built(archive, bundle, build_endpoint_archive(out_dir), manifest, warnings)


def make_manifest(
    net: CapturedNetwork,
    *,
    model: str,
    version: str,
    profile: Profile,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    deployed: Sequence[str] | None = None,
    codecs: Sequence[str] | None = None,
    default: tuple[str, str] | None = None,
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of a model, without files, and warnings.

    Parameters: ``deployed``, split points by any of their names; ``default``, the (split point, codec) a client starts
    with, by default the first deployed point with ``uint8+zstd``. Raises ProfileError where the profile belongs to
    another network, UnknownSplitPointError, UnknownCodecError, BundleError for names TorchServe cannot carry.
    """
    if not _NAME.match(model) or model == ENDPOINT_MODEL:
        raise BundleError(
            f"model name {model[:120]!r}: expected letters, digits, '_', '-', '.', at most 100, not {ENDPOINT_MODEL!r}"
        )
    if not _NAME.match(version):
        raise BundleError(f"version {version[:120]!r}: expected letters, digits, '_', '-', '.', at most 100")
    network_hash = net.network_hash(preprocessing)
    if profile.network_hash != network_hash:
        raise ProfileError(
            f"the profile of {profile.model!r} belongs to network {profile.network_hash}, this one is {network_hash}: "
            "other weights, another graph or other preprocessing; profile this network",
            profile=profile.network_hash,
            network=network_hash,
        )
    chosen = tuple(dict.fromkeys(net.split_point(n).name for n in deployed or choose_deployed(profile)))
    if not chosen:
        raise BundleError("no split point to deploy: name at least one")
    accepted = tuple(codecs) if codecs is not None else CODECS
    for codec in accepted:
        if codec not in CODECS:
            raise UnknownCodecError.of(codec, CODECS)
    manifest = Manifest(
        model=model,
        version=version,
        network_hash=network_hash,
        input_shape=preprocessing.shape,
        preprocessing=preprocessing,
        classes=tuple(classes),
        split_points=tuple(net.split_points),
        deployed=chosen,
        codecs=accepted,
        default=_default(net, chosen, accepted, default),
        created_with=_created_with(),
    )
    return manifest, _warnings(profile, manifest)


def choose_deployed(profile: Profile) -> tuple[str, ...]:
    """The measured points whose smallest faithful codec undercuts the JPEG, in execution order; where none does, the
    three smallest. Faithful: agreement within one percentage point of the best codec of that point."""
    smallest: dict[str, float] = {}
    jpeg = min((m.nbytes for m in profile.measures if m.split_point == INPUT), default=float("inf"))
    for point in (p.name for p in profile.split_points):
        measures = [m for m in profile.measures if m.split_point == point]
        shares = [m.agree.sum() / max(m.seen.sum(), 1) for m in measures]
        faithful = [m.nbytes for m, s in zip(measures, shares, strict=True) if s >= max(shares) - 0.01]
        if faithful:
            smallest[point] = min(faithful)
    below = tuple(p for p, n in smallest.items() if n < jpeg)
    if below:
        return below
    top = sorted(smallest, key=smallest.__getitem__)[:3]
    return tuple(p for p in smallest if p in top)


def build_archive(
    net: CapturedNetwork,
    *,
    manifest: Manifest,
    profile: Profile,
    config: Mapping[str, Any] | None = None,
    out_dir: str | Path,
) -> Path:
    """Write ``<model>.mar`` into ``out_dir`` and return its path.

    Parameters: ``manifest`` of :func:`make_manifest`; ``config``, overrides of the shipped ``model-config.yaml`` (its
    ``isplit`` section is merged key by key). Raises ServingError where the archiver fails.
    """
    with _staging() as stage:
        files = stage / "files"
        files.mkdir()
        net.save(files / NETWORK)
        profile.save(files / PROFILE)
        shutil.copyfile(handler_file("tail_handler.py"), files / "tail_handler.py")
        _write_config(files / "model-config.yaml", "model-config.yaml", config)
        _write_manifest(files, manifest)
        return _archive(stage, files, manifest.model, manifest.version, Path(out_dir))


def build_endpoint_archive(out_dir: str | Path, *, config: Mapping[str, Any] | None = None) -> Path:
    """Write ``isplit.mar``, the recommendation endpoint: the same for all models. Raises ServingError."""
    with _staging() as stage:
        files = stage / "files"
        files.mkdir()
        shutil.copyfile(handler_file("recommendation_handler.py"), files / "recommendation_handler.py")
        _write_config(files / "model-config.yaml", "endpoint-config.yaml", config)
        return _archive(stage, files, ENDPOINT_MODEL, "1.0", Path(out_dir))


def build_head_bundle(
    net: CapturedNetwork,
    *,
    manifest: Manifest,
    pt2: bool = False,
    include_output: bool = True,
    out_dir: str | Path,
) -> Path:
    """Write ``<model>.head.zip`` into ``out_dir`` and return its path.

    It holds ``manifest.json`` and ``heads/<split point>.onnx`` for every deployed point. ``include_output`` adds the
    whole network for a device that runs everything itself; ``pt2`` adds torch heads, which are code: for devices that
    trust this file. Raises what ``network.export_head`` raises.
    """
    from ..network import export_head

    with _staging() as stage:
        files = stage / "files"
        (files / "heads").mkdir(parents=True)
        for name in (*manifest.deployed, *((OUTPUT,) if include_output else ())):
            export_head(net, name, files / "heads" / f"{name}.onnx")
            if pt2:
                export_head(net, name, files / "heads" / f"{name}.pt2", format="pt2")
        _write_manifest(files, manifest)
        built = stage / "head.zip"
        with zipfile.ZipFile(built, "w", zipfile.ZIP_STORED) as bundle:
            for path in sorted(p for p in files.rglob("*") if p.is_file()):
                bundle.write(path, path.relative_to(files).as_posix())
        return _publish(built, Path(out_dir) / f"{manifest.model}.head.zip")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file that the manifest names with its hash. Raises BundleError naming the first that differs."""
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise BundleError(f"{name} is missing from the archive of {manifest.model!r}", file=name)
        found = sha256(path)
        if found != expected:
            raise BundleError(
                f"{name} of model {manifest.model!r} is not the file that was packaged: its SHA-256 is {found}, "
                f"expected {expected}",
                file=name,
            )


# -- helpers


def _default(
    net: CapturedNetwork, deployed: Sequence[str], codecs: Sequence[str], asked: tuple[str, str] | None
) -> tuple[str, str]:
    if asked is None:
        return deployed[0], "uint8+zstd" if "uint8+zstd" in codecs else codecs[0]
    point, codec = asked
    if point in (INPUT, OUTPUT):
        known: tuple[str, ...] = IMAGE_CODECS if point == INPUT else ("none",)
        if codec not in (*known, *codecs):
            raise UnknownCodecError.of(codec, known)
        return point, codec
    name = net.split_point(point).name
    if name not in deployed:
        raise UnknownSplitPointError.of(point, (INPUT, *deployed, OUTPUT))
    if codec not in codecs:
        raise UnknownCodecError.of(codec, codecs)
    return name, codec


def _warnings(profile: Profile, manifest: Manifest) -> tuple[str, ...]:
    found = []
    measured = {m.split_point for m in profile.measures}
    unmeasured = [p for p in manifest.deployed if p not in measured]
    if unmeasured:
        found.append(
            f"the profile never measured {', '.join(unmeasured)}: served, but never recommended until it is measured"
        )
    if tuple(profile.classes) != manifest.classes:
        found.append("the profile's classes are named differently from the model's")
    return tuple(found)


def _created_with() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("isplit-plugin", "torch", "onnx", "torch-model-archiver"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def _staging() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isplit-build-") as folder:
        yield Path(folder)


def _write_manifest(files: Path, manifest: Manifest) -> None:
    hashes = {p.relative_to(files).as_posix(): sha256(p) for p in sorted(files.rglob("*")) if p.is_file()}
    text = json.dumps(replace(manifest, files=hashes).to_json(), indent=1, allow_nan=False)
    (files / MANIFEST).write_text(text, "utf-8")


def _write_config(path: Path, shipped: str, overrides: Mapping[str, Any] | None) -> None:
    source = config_file(shipped)
    if not overrides:
        shutil.copyfile(source, path)
        return
    base = yaml.safe_load(source.read_text("utf-8"))
    ours = {**base.get("isplit", {}), **overrides.get("isplit", {})}
    path.write_text(yaml.safe_dump({**base, **overrides, "isplit": ours}, sort_keys=False), "utf-8")


def _archive(stage: Path, files: Path, model: str, version: str, out_dir: Path) -> Path:
    # The archiver deletes $TMPDIR/<model name> and reads TMPDIR once per process: it gets a process and a folder alone.
    scratch = stage / "tmp"
    scratch.mkdir()
    handler = next(files.glob("*_handler.py"))
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", model, "--version", version]
    command += ["--handler", str(handler), "--config-file", str(files / "model-config.yaml")]
    command += ["--extra-files", str(files), "--archive-format", "zip-store", "--export-path", str(stage)]
    run = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, text=True, check=False
    )
    built = stage / f"{model}.mar"
    if run.returncode != 0 or not built.is_file():
        raise ServingError(f"torch-model-archiver failed for {model!r}: {(run.stderr or run.stdout)[-2000:]}")
    return _publish(built, out_dir / built.name)


def _publish(built: Path, target: Path) -> Path:
    """Move a finished file to its place; a reader sees the old file or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    aside = Path(name)
    try:
        shutil.copyfile(built, aside)
        aside.chmod(0o644)
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return target
