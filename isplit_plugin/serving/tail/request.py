"""From one row of TorchServe's batch to a decoded activation, and on to observations."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ... import image
from ...device_tokens import DEVICE_HEADER, TokenVerifier
from ...errors import ImageError, IsplitError, WireError, WireSizeError
from ...network import Corrector
from ...schema import TRANSFORM_CODEC, FloatArray, Manifest, Observation
from ...wire import TailRequest, TailResponse, Transform, decode_request, find_header, header_length
from ..plausible import ReportLimits
from ..replies import request_body
from .sender import NOBODY, Sender, identify

MAX_DECODED_BYTES: Final = 128 * 1024 * 1024
"""Largest decoded activation of one request. Compressed zeros of 1 MB could ask for gigabytes."""


@dataclass(slots=True, eq=False)
class TailJob:
    """One request of a batch, from its row to its decoded activation.

    Attributes:
        index: of the row in the batch.
        explain: whether importance is asked for instead of classes.
        read_ms: milliseconds that reading took.
        sender: who sent it, as far as a token proves it.
        nbytes: of the body.
        values: the decoded and corrected activation, (N, *shape) float32; empty before :meth:`decode`.
        decode_ms: milliseconds that reading, decoding and correcting took.
    """

    index: int
    request: TailRequest
    explain: bool
    read_ms: float
    sender: Sender = NOBODY
    nbytes: int = 0
    values: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))
    decode_ms: float = 0.0

    @property
    def group(self) -> str:
        """The device group: the one that the operator signed, else the one that the device names."""
        return self.sender.group or self.request.group

    def decode(
        self,
        manifest: Manifest,
        transforms: Mapping[str, Transform],
        correctors: Mapping[str, Corrector],
    ) -> None:
        """Fill ``values`` and ``decode_ms``. Raises WireError, ImageError.

        ``transforms``, ``correctors``: by split point, for the codec ``dct``.
        """
        started = time.perf_counter()
        if self.request.is_image:
            self.values = _images(self.request, manifest)
        else:
            cut = self.request.cut
            self.values = _activation(self.request, transforms.get(cut.split_point))
            corrector = correctors.get(cut.split_point)
            if cut.codec == TRANSFORM_CODEC and cut.quality is not None and corrector is not None:
                self.values = corrector.correct(self.values, cut.quality)
        self.decode_ms = self.read_ms + (time.perf_counter() - started) * 1e3


def read_tail_job(
    index: int,
    row: Mapping[Any, Any],
    headers: Mapping[str, str],
    manifest: Manifest,
    *,
    max_batch: int,
    verifier: TokenVerifier | None = None,
) -> TailJob:
    """Read one row and check it against the manifest. Nothing large is decoded yet.

    ``verifier``: of device tokens, ``None`` where there is no secret. Raises what
    :func:`isplit_plugin.wire.decode_request` raises.
    """
    body = request_body(row)
    if body is None:
        raise WireError(
            "no body: send the bytes as they are (curl -T FILE), not as a form (curl -d and --data-binary send one)"
        )
    started = time.perf_counter()
    length, kind = header_length(headers), find_header(headers, "Content-Type")
    request = decode_request(body, length, kind, manifest, max_batch=max_batch)
    explain = find_header(headers, "explain") == "True"
    # The forwarder names the device that it admitted, which outranks what the body claims.
    token = find_header(headers, DEVICE_HEADER) or request.device_token
    sender = identify(verifier, token)
    read_ms = (time.perf_counter() - started) * 1e3
    return TailJob(index, request, explain, read_ms, sender, _body_bytes(body, headers, request))


def observations(
    job: TailJob,
    response: TailResponse,
    tail_ms: float,
    limits: ReportLimits,
    items: Sequence[int],
) -> Iterator[Observation]:
    """One observation for each of ``items``, the numbers of images.

    An image of a batch has its share of the request's bytes and times, and its number behind the
    request's id. Times that no device can have count as not reported. A second request counts with the
    bytes of the first.
    """
    request, count, at = job.request, len(job.values), time.time()
    head_ms = limits.head_ms(request.split_point, request.head_ms, count)
    encode_ms = limits.encode_ms(request.cut, request.encode_ms, count)
    uplink_ms = limits.uplink_ms(job.nbytes, request.uplink_ms)
    # The bytes of a first request count with the second. No more than the second's own are believed.
    first = 0 if request.first is None else min(request.first.nbytes, job.nbytes)
    for item in items:
        yield Observation(
            request_id=response.request_id if count == 1 else f"{response.request_id}:{item}",
            cut=request.cut,
            class_id=int(response.top_class[item, 0]),
            confidence=float(response.top_probability[item, 0]),
            bytes_received=round((job.nbytes + first) / count),
            decode_ms=job.decode_ms / count,
            tail_ms=tail_ms / count,
            at=at,
            head_ms=head_ms / count,
            encode_ms=encode_ms / count,
            uplink_ms=uplink_ms / count,
            rtt_ms=limits.trip_ms(request.rtt_ms),
            queue_ms=limits.trip_ms(request.queue_ms),
            group=job.group,
            device=job.sender.device,
            signed_group=job.sender.group is not None,
        )


def failure(job: TailJob, error: BaseException) -> Observation:
    """The observation of a request that was understood but not answered: its times tell nothing."""
    request = job.request
    return Observation(
        request_id="",
        cut=request.cut,
        class_id=None,
        confidence=math.nan,
        bytes_received=job.nbytes,
        decode_ms=math.nan,
        tail_ms=math.nan,
        at=time.time(),
        group=job.group,
        device=job.sender.device,
        signed_group=job.sender.group is not None,
        error=error.code if isinstance(error, IsplitError) else IsplitError.code,
    )


def _body_bytes(body: Any, headers: Mapping[str, str], request: TailRequest) -> int:
    """The length of the body. Of JSON, which TorchServe has parsed, the header says it."""
    if not isinstance(body, Mapping):
        return len(body)
    stated = find_header(headers, "Content-Length") or ""
    known = stated.isascii() and stated.isdigit() and len(stated) < 12
    return int(stated) if known else request.tensor.nbytes


def _activation(request: TailRequest, transform: Transform | None) -> FloatArray:
    nbytes = 4 * request.batch * math.prod(request.shape)
    if nbytes > MAX_DECODED_BYTES:
        raise WireSizeError(
            f"a batch of {request.batch} at {request.split_point!r} takes {nbytes} bytes decoded, "
            f"at most {MAX_DECODED_BYTES}",
            limit=MAX_DECODED_BYTES,
        )
    return request.activation(transform)


def _images(request: TailRequest, manifest: Manifest) -> FloatArray:
    pre = manifest.preprocessing
    items, pixels = [], image.MAX_PIXELS
    # The codecs of photos are called like the formats.
    formats = image.WIRE_FORMATS if request.codec == "file" else (request.codec.upper(),)
    for data in request.images():
        # One budget of pixels for all images of a request: a few KB can decode to many megapixels.
        photo = image.load(
            data, max_pixels=pixels, max_decoding=image.MAX_DECODING, formats=formats
        )
        pixels = max(pixels - photo.width * photo.height, 1)
        if request.codec == "file":
            items.append(image.preprocess(photo, pre))
            continue
        if (photo.height, photo.width) != tuple(pre.crop):
            raise ImageError(
                f"codec {request.codec!r} carries images cropped to {pre.crop[1]}x{pre.crop[0]}, got {photo.width}x{photo.height}"
                "; a whole photo goes with codec 'file'"
            )
        items.append(image.normalize(photo.convert(pre.mode), pre))
    return np.stack(items)
