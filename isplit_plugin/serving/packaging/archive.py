"""Build what is deployed: the model archive for TorchServe, the head bundle for devices, the
endpoint's archive.

An archive holds the weights once (``network.pt2``) and serves every deployed split point from it.
``manifest.json`` carries the SHA-256 of every other file. Files appear whole or not at all: they
are built aside and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ...errors import ServingError
from ...files import file_sha256, write_atomically
from ...profile import Profile
from ...schema import OUTPUT, Cut, Manifest, Preprocessing
from ...wire import Transform
from ..files import ENDPOINT_MODEL, MANIFEST, NETWORK, PROFILE
from ..model_store import archive_name, check_unused, head_bundle_name, packaged_network
from ..optional import package_warnings
from ..resources import config_file, handler_file
from ..settings import TailSettings, check_torchserve_keys
from ..settings_file import merged
from .bottlenecks import bottleneck_file, with_bottlenecks
from .correctors import check_correctors, write_correctors
from .int8_heads import deployed_int8_heads
from .manifest import make_manifest
from .transforms import write_transforms

if TYPE_CHECKING:
    from ...bottleneck import Bottleneck
    from ...network import CapturedNetwork, Corrector, Int8Heads, Precision


@dataclass(frozen=True, slots=True)
class Built:
    """What :func:`package` wrote.

    Attributes:
        archive, bundle, endpoint: the three files.
        warnings: sentences for the operator; nothing in them stops the model.
        differences: by how much weights stored as fp16 change what each head puts out, relative to
            the largest value; empty with fp32.
    """

    archive: Path
    bundle: Path
    endpoint: Path
    manifest: Manifest
    warnings: tuple[str, ...]
    differences: Mapping[str, float]


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
    default: Cut | None = None,
    bottlenecks: Sequence[Bottleneck] = (),
    transforms: Sequence[Transform] = (),
    correctors: Mapping[str, Corrector] | None = None,
    int8_heads: Int8Heads | None = None,
    pt2: bool = False,
    include_output: bool = True,
    bundle_precision: Precision = "fp32",
    config: Mapping[str, Any] | None = None,
    out_dir: str | Path = "model_store",
) -> Built:
    """Write the three files that belong together: archive, head bundle and the endpoint's archive.

    The encoders of ``bottlenecks`` go to the bundle, their decoders to the archive, and their
    measurements to its profile. ``transforms`` of deployed split points go to both, ``correctors``
    (by split point) to the archive. ``int8_heads`` are those that the profile was measured with.

    Parameters and errors: see :func:`make_manifest`, :func:`build_archive`,
    :func:`build_head_bundle`.

    Parameters:
        config: settings of the tail worker; see :func:`build_archive`.

    Raises:
        BundleError: a file of another model and version has the name of one of the files.
        ArtifactError: a corrector without its transform; a corrector or an int8 head that the
            profile was not measured with, or torch heads beside int8 heads.
        ServingError: ``config`` has a key or value that TorchServe or a tail worker would refuse.
        ProbeError: ``config`` turns probes on, and no deployed split point can have them.
    """
    correctors = correctors or {}
    fitted = {transform.split_point: transform for transform in transforms}
    profile = check_correctors(profile, correctors, fitted)
    profile = with_bottlenecks(profile, net, bottlenecks)
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
        bottlenecks=bottlenecks,
        transforms=transforms,
        correctors=correctors,
    )
    int8_files = deployed_int8_heads(profile, manifest, int8_heads, pt2=pt2)
    check_unused(Path(out_dir), manifest.model, manifest.version)
    before = packaged_network(Path(out_dir), manifest.model, manifest.version)
    if before not in (None, manifest.network_hash):
        warnings += (
            f"{manifest.model} {manifest.version} was another network so far, and its files are "
            "overwritten: if devices use them, give this network another version",
        )
    check_torchserve_keys(config or {}, "the settings")
    settings = TailSettings.of_archive(config, "the settings")
    part_warnings = package_warnings(net, manifest, settings, pt2=pt2)
    archive = build_archive(
        net,
        manifest=manifest,
        profile=profile,
        bottlenecks=bottlenecks,
        transforms=transforms,
        correctors=correctors,
        config=config,
        out_dir=out_dir,
    )
    bundle, differences = build_head_bundle(
        net,
        manifest=manifest,
        bottlenecks=bottlenecks,
        transforms=transforms,
        int8_files=int8_files,
        pt2=pt2,
        include_output=include_output,
        precision=bundle_precision,
        out_dir=out_dir,
    )
    endpoint = build_endpoint_archive(out_dir)
    return Built(archive, bundle, endpoint, manifest, (*warnings, *part_warnings), differences)


def build_archive(
    net: CapturedNetwork,
    *,
    manifest: Manifest,
    profile: Profile,
    bottlenecks: Sequence[Bottleneck] = (),
    transforms: Sequence[Transform] = (),
    correctors: Mapping[str, Corrector] | None = None,
    config: Mapping[str, Any] | None = None,
    out_dir: str | Path,
) -> Path:
    """Write ``<model>.mar`` into ``out_dir`` and return its path.

    A version other than 1.0 is part of the name: ``<model>-<version>.mar``.

    Parameters:
        manifest: of :func:`make_manifest`. config: overrides of the shipped ``model-config.yaml``;
        they are merged key by key.

    Raises ServingError where the archiver fails.
    """
    with _staging() as stage:
        files = stage / "files"
        files.mkdir()
        net.save(files / NETWORK)
        profile.save(files / PROFILE)
        for bottleneck in bottlenecks:
            bottleneck.save(files / bottleneck_file(bottleneck.deployed_name))
        write_transforms(files, transforms, manifest, bundle=False)
        fitted = {transform.split_point: transform for transform in transforms}
        write_correctors(files, correctors or {}, fitted, manifest)
        shutil.copyfile(handler_file("tail_handler.py"), files / "tail_handler.py")
        _write_config(files / "model-config.yaml", "model-config.yaml", config)
        _write_manifest(files, manifest)
        return _archive(stage, files, manifest.model, manifest.version, Path(out_dir))


def build_endpoint_archive(out_dir: str | Path, *, config: Mapping[str, Any] | None = None) -> Path:
    """Write ``isplit.mar``, the recommendation endpoint: the same for all models.

    Raises ServingError.
    """
    with _staging() as stage:
        files = stage / "files"
        files.mkdir()
        shutil.copyfile(
            handler_file("recommendation_handler.py"), files / "recommendation_handler.py"
        )
        _write_config(files / "model-config.yaml", "endpoint-config.yaml", config)
        return _archive(stage, files, ENDPOINT_MODEL, "1.0", Path(out_dir))


def build_head_bundle(
    net: CapturedNetwork,
    *,
    manifest: Manifest,
    bottlenecks: Sequence[Bottleneck] = (),
    transforms: Sequence[Transform] = (),
    int8_files: Mapping[str, bytes] | None = None,
    pt2: bool = False,
    include_output: bool = True,
    precision: Precision = "fp32",
    out_dir: str | Path,
) -> tuple[Path, dict[str, float]]:
    """Write ``<model>.head.zip`` into ``out_dir``; returns its path, and ``Built.differences``.

    A version other than 1.0 is part of the name: ``<model>-<version>.head.zip``. The bundle holds
    ``manifest.json``, ``heads/<split point>.onnx`` for every deployed split point, ``weights/`` that
    ONNX heads share, and ``transforms/<split point>.safetensors`` where there is a transform.

    Parameters:
        int8_files: split point -> its head in int8, as ONNX, instead of the network's own.
        include_output: add the whole network, for a device that runs everything itself.
        pt2: add torch heads. They are code, for devices that trust this file, and each holds its
            weights itself, as fp32.
        precision: of the weights of ONNX heads, on disk.

    Raises what :func:`isplit_plugin.network.export_head` and
    :func:`isplit_plugin.network.share_weights` raise.
    """
    from ...bottleneck import export_encoder
    from ...network import export_head, share_weights

    with _staging() as stage:
        files = stage / "files"
        (files / "heads").mkdir(parents=True)
        encoders = {bottleneck.deployed_name: bottleneck for bottleneck in bottlenecks}
        formats: tuple[Literal["onnx", "pt2"], ...] = ("onnx", "pt2") if pt2 else ("onnx",)
        for name in (*manifest.deployed, *((OUTPUT,) if include_output else ())):
            for kind in formats:
                path = files / "heads" / f"{name}.{kind}"
                if name in encoders:
                    export_encoder(net, encoders[name], path, format=kind)
                elif int8_files is not None and name in int8_files:
                    path.write_bytes(int8_files[name])
                else:
                    export_head(net, name, path, format=kind)
        weights, differences = share_weights(files / "heads", files / "weights", precision)
        write_transforms(files, transforms, manifest, bundle=True)
        _write_manifest(files, replace(manifest, weights=weights))
        built = stage / "head.zip"
        with zipfile.ZipFile(built, "w", zipfile.ZIP_STORED) as bundle:
            for path in sorted(p for p in files.rglob("*") if p.is_file()):
                bundle.write(path, path.relative_to(files).as_posix())
        target = Path(out_dir) / head_bundle_name(manifest.model, manifest.version)
        return _publish(built, target), differences


@contextmanager
def _staging() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isplit-build-") as folder:
        yield Path(folder)


def _write_manifest(files: Path, manifest: Manifest) -> None:
    hashes = {
        p.relative_to(files).as_posix(): file_sha256(p)
        for p in sorted(files.rglob("*"))
        if p.is_file()
    }
    text = json.dumps(replace(manifest, files=hashes).to_json(), indent=1, allow_nan=False)
    (files / MANIFEST).write_text(text, "utf-8")


def _write_config(path: Path, shipped: str, overrides: Mapping[str, Any] | None) -> None:
    source = config_file(shipped)
    if not overrides:
        shutil.copyfile(source, path)
        return
    base = yaml.safe_load(source.read_text("utf-8"))
    path.write_text(yaml.safe_dump(merged(base, overrides), sort_keys=False), "utf-8")


def _archive(stage: Path, files: Path, model: str, version: str, out_dir: Path) -> Path:
    # The archiver deletes $TMPDIR/<model name> and reads TMPDIR once for each process. So it gets a
    # process and a folder of its own.
    scratch = stage / "tmp"
    scratch.mkdir()
    handler = next(files.glob("*_handler.py"))
    options = {
        "--model-name": model,
        "--version": version,
        "--handler": handler,
        "--config-file": files / "model-config.yaml",
        "--extra-files": files,
        "--archive-format": "zip-store",
        "--export-path": stage,
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += [str(word) for option in options.items() for word in option]
    run = subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    built = stage / f"{model}.mar"
    if run.returncode != 0 or not built.is_file():
        raise ServingError(
            f"torch-model-archiver failed for {model!r}: {(run.stderr or run.stdout)[-2000:]}"
        )
    return _publish(built, out_dir / archive_name(model, version))


def _publish(built: Path, target: Path) -> Path:
    """Move a finished file to its place; a reader sees the old file or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda temporary: shutil.copyfile(built, temporary), mode=0o644)
    return target
