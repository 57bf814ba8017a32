"""Head bundles: ``manifest.json`` and ``heads/SPLIT_POINT.onnx`` (or ``.pt2``) in a zip file, and
``transforms/SPLIT_POINT.safetensors`` for the codec ``dct``.

ONNX heads share weights: what several have in common lies in ``weights/1.onnx`` and so on. A head
and the weights that the manifest lists for it, one after the other, are one ONNX model.

A folder with the same files is a bundle, too.

A bundle may come from an untrusted network. It is not unpacked to disk, every read is bounded, and
every file must have the SHA-256 that the manifest gives for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import ArtifactError, BundleError, NetworkMismatchError, WireError
from ..schema import Manifest
from ..wire import Transform, check_transform, load_json, unpack_transforms

MANIFEST: Final = "manifest.json"
MAX_FILES: Final = 1024
MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
MAX_TRANSFORM_BYTES: Final = 256 * 1024 * 1024
MAX_FILE_BYTES: Final = 2 * 1024**3
"""Largest head: the limit of protobuf, and so of ONNX."""
MAX_EXPANSION: Final = 20
"""How many times larger than the zip file its content may be, beyond 16 MB. Weights hardly
compress, so more is a zip bomb, which would be hashed for hours."""

MAX_INPUT_SIDE: Final = 8192
"""The longest side of a network's input, in pixels."""
MAX_MANIFEST_VALUES: Final = 500_000
"""The most values in a manifest, which take 50 to 150 bytes each."""

_MAY_EXPAND: Final = 16 * 1024 * 1024
_CHUNK: Final = 1024 * 1024
_DAMAGE: Final = (
    OSError,
    EOFError,
    RuntimeError,  # an encrypted file
    NotImplementedError,
    ValueError,  # names that are no UTF-8, offsets below 0
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile raises for damaged files."""
_PATH: Final = re.compile(
    r"(heads/[A-Za-z0-9_][A-Za-z0-9_.:~\-]{0,127}\.(onnx|pt2)"
    r"|weights/[0-9]{1,4}\.onnx"
    r"|transforms/[A-Za-z0-9_][A-Za-z0-9_.:~\-]{0,127}\.safetensors)\Z"
)
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class HeadBundle:
    """An open bundle.

    Attributes:
        manifest: the description of the network. Its list of files was checked.

    Raises:
        BundleError: a file is missing, changed, too large or not in the manifest.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._source: _Zip | _Folder = (
                _Folder(self.path) if self.path.is_dir() else _Zip(self.path)
            )
        except OSError as error:
            raise BundleError(
                f"head bundle {self.path}: cannot be read ({error.strerror})"
            ) from error
        try:
            raw = b"".join(self._chunks(MANIFEST, MAX_MANIFEST_BYTES))
            self.manifest = self._read_manifest(raw)
            self._manifest_sha256 = hashlib.sha256(raw).hexdigest()
            self._check_names()
            for name in self.manifest.files:
                for _ in self._checked(name, MAX_FILE_BYTES):
                    pass
        except BaseException:
            self.close()
            raise

    @cached_property
    def sha256(self) -> str:
        """Of the zip file; for a folder, of its manifest, which holds the other files' hashes."""
        return self._source.sha256() or self._manifest_sha256

    def has(self, split_point: str, suffix: str = "onnx") -> bool:
        """Whether there is a head of this format for the split point."""
        return _head_path(split_point, suffix) in self.manifest.files

    def heads(self, suffix: str = "onnx") -> tuple[str, ...]:
        """Split points with a head of this format."""
        names = (n for n in self.manifest.files if n.startswith("heads/"))
        ends = f".{suffix}"
        return tuple(n[len("heads/") : -len(ends)] for n in names if n.endswith(ends))

    def read(self, split_point: str, suffix: str = "onnx") -> bytes:
        """A head's bytes, with its shared weights, checked against their hashes.

        Raises BundleError if there is none.
        """
        name = _head_path(split_point, suffix)
        if name not in self.manifest.files:
            names = ", ".join(self.heads(suffix)) or "none"
            raise BundleError(
                f"head bundle {self.path} has no {name}; .{suffix} heads: {names}",
                file=name,
            )
        weights = self.manifest.weights.get(split_point, ()) if suffix == "onnx" else ()
        chunks: list[bytes] = []
        for part in (name, *(f"weights/{file}" for file in weights)):
            chunks += self._checked(part, MAX_FILE_BYTES - sum(map(len, chunks)))
        return b"".join(chunks)

    def file_hash(self, split_point: str, suffix: str) -> str:
        """A head's SHA-256 in the manifest. Raises BundleError if there is no such head."""
        try:
            return self.manifest.files[_head_path(split_point, suffix)]
        except KeyError:
            raise BundleError(
                f"head bundle {self.path} has no {_head_path(split_point, suffix)}"
            ) from None

    def transform(self, split_point: str) -> Transform:
        """The transform of a split point, checked. Raises BundleError if there is none that fits."""
        name = f"transforms/{split_point}.safetensors"
        where = f"head bundle {self.path}: {name}"
        if name not in self.manifest.files:
            raise BundleError(f"{where} is missing: no codec 'dct' there", file=name)
        data = b"".join(self._checked(name, MAX_TRANSFORM_BYTES))
        try:
            (transform,) = unpack_transforms(data, where=where)
            point = self.manifest.split_point(split_point)
            check_transform(transform, self.manifest.network_hash, point, where=where)
        except (ArtifactError, NetworkMismatchError) as error:
            raise BundleError(error.message, file=name) from error
        except ValueError as error:
            raise BundleError(f"{where}: expected one transform", file=name) from error
        return transform

    def close(self) -> None:
        self._source.close()

    def _read_manifest(self, raw: bytes) -> Manifest:
        where = f"head bundle {self.path}: {MANIFEST}"
        try:
            parsed = load_json(raw, where, max_values=MAX_MANIFEST_VALUES)
            if not isinstance(parsed, dict):
                raise BundleError(
                    f"{where}: expected a JSON object, got {type(parsed).__name__}", file=MANIFEST
                )
            return check_input(Manifest.from_json(parsed, where=where), where)
        except BundleError:
            raise
        except (WireError, ArtifactError, OverflowError) as error:
            raise BundleError(str(error), file=MANIFEST) from error

    def _check_names(self) -> None:
        for name, digest in self.manifest.files.items():
            if not _PATH.match(name) or not _SHA256.match(digest):
                raise BundleError(
                    f"head bundle {self.path}: {MANIFEST} lists {name[:200]!a} with hash "
                    f"{digest[:80]!a}; expected heads/<split point>.onnx or .pt2, "
                    "weights/<number>.onnx or transforms/<split point>.safetensors, with a SHA-256",
                    file=name[:200],
                )
        for split_point, files in self.manifest.weights.items():
            paths = {f"weights/{file}" for file in files}
            if len(paths) < len(files) or not paths <= self.manifest.files.keys():
                raise BundleError(
                    f"head bundle {self.path}: {MANIFEST} lists weights of the head "
                    f"{split_point[:80]!a} twice, or some that are no file: {files!a:.200}",
                    file=MANIFEST,
                )
        for name in self._source.names():
            if name != MANIFEST and name not in self.manifest.files:
                raise BundleError(
                    f"head bundle {self.path}: {name[:200]!a} is not in {MANIFEST}", file=name[:200]
                )

    def _chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """A file in pieces. Raises BundleError if it is missing, damaged or too long."""
        try:
            with self._source.open(name) as file:
                total = 0
                while chunk := file.read(_CHUNK):
                    total += len(chunk)
                    if total > limit:
                        raise BundleError(
                            f"head bundle {self.path}: {name} has more than {limit} bytes",
                            file=name,
                        )
                    yield chunk
        except (KeyError, FileNotFoundError):
            raise BundleError(f"head bundle {self.path}: {name} is missing", file=name) from None
        except _DAMAGE as error:
            raise BundleError(
                f"head bundle {self.path}: {name} cannot be read ({error})", file=name
            ) from error

    def _checked(self, name: str, limit: int) -> Iterator[bytes]:
        """A file in pieces. Raises BundleError in the end if it is not the one that was packaged."""
        digest = hashlib.sha256()
        for chunk in self._chunks(name, limit):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self.manifest.files[name]:
            raise BundleError(
                f"head bundle {self.path}: {name} is not the file that was packaged: its SHA-256 "
                f"is {digest.hexdigest()}, expected {self.manifest.files[name]}",
                file=name,
            )


def check_input(manifest: Manifest, where: str) -> Manifest:
    """A manifest whose input is small enough to be made. Raises BundleError."""
    resize = manifest.preprocessing.resize
    sides = [*manifest.preprocessing.crop, 1 if resize is None else resize]
    if not 1 <= min(sides) <= max(sides) <= MAX_INPUT_SIDE:
        raise BundleError(
            f"{where}: expected sides of 1 to {MAX_INPUT_SIDE} pixels, got crop "
            f"{manifest.preprocessing.crop} and resize {manifest.preprocessing.resize}",
            file=MANIFEST,
        )
    return manifest


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE as error:
            self._file.close()
            raise BundleError(f"head bundle {path}: not a zip file ({error})") from error
        except BaseException:
            self._file.close()
            raise
        names = self._zip.namelist()
        if len(names) > MAX_FILES or len(set(names)) != len(names):
            self.close()
            raise BundleError(
                f"head bundle {path}: expected at most {MAX_FILES} files with distinct names, "
                f"got {len(names)}"
            )
        limit = _MAY_EXPAND + MAX_EXPANSION * self._file.seek(0, os.SEEK_END)
        total = sum(info.file_size for info in self._zip.infolist())
        if total > limit:
            self.close()
            raise BundleError(
                f"head bundle {path}: expected a content of at most {limit} bytes, for a zip file "
                f"of this size, got {total}"
            )
        for entry in self._zip.infolist():
            # The others take memory as their headers say: LZMA up to 4 GB for its dictionary.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                self.close()
                raise BundleError(
                    f"head bundle {path}: {entry.filename[:200]!a} is compressed by method "
                    f"{entry.compress_type}, expected stored or deflated",
                    file=entry.filename[:200],
                )

    def names(self) -> list[str]:
        return [name for name in self._zip.namelist() if not name.endswith("/")]

    def open(self, name: str) -> BinaryIO:
        # A ZipExtFile lacks methods of BinaryIO that are not used here.
        file: BinaryIO = self._zip.open(name)  # type: ignore[assignment]
        return file

    def sha256(self) -> str:
        """Hash the open file, from which everything is read, and not what may have replaced it."""
        digest = hashlib.sha256()
        offset = 0
        # Other threads read from the same file: its position stays theirs.
        while chunk := os.pread(self._file.fileno(), _CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()

    def close(self) -> None:
        self._zip.close()
        self._file.close()


class _Folder:
    """A folder. Files that the manifest does not name are allowed, and ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        return []

    def open(self, name: str) -> BinaryIO:
        path = self._path / name
        if not path.resolve().is_relative_to(self._path.resolve()):
            raise OSError("it lies outside the folder")
        return path.open("rb")

    def sha256(self) -> str:
        return ""

    def close(self) -> None:
        pass


def _head_path(split_point: str, suffix: str) -> str:
    return f"heads/{split_point}.{suffix}"
