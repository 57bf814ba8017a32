"""``SplitClient``: the head here, the tail on the server, one answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from .. import image as im
from ..errors import (
    BundleError,
    ImageError,
    NetworkMismatchError,
    ProtocolError,
    ServerBusyError,
    ServerUnavailableError,
    UnknownCodecError,
    WireError,
    WireSizeError,
)
from ..image import Image
from ..schema import (
    INPUT,
    ON_DEVICE,
    OUTPUT,
    Cut,
    FloatArray,
    Manifest,
    Prediction,
    Recommendation,
    Timings,
    TopClass,
)
from ..wire import (
    DEFAULT_MAX_BATCH,
    SCORES,
    TailRequest,
    TailResponse,
    Tensor,
    decode_response,
    encode_activation,
    encode_images,
    header_length,
    http_headers,
)
from ..wire.request import MAX_TOP_K
from .bundle import HeadBundle
from .cuts import refused, resolve
from .photo_bytes import file_bytes
from .recommendations import Constraint, ask
from .runtimes import HeadRuntime, Trust, make_runtime
from .transport import DEFAULT_TIMEOUT, MAX_RESPONSE_BYTES, Token, Transport, read_token

_MS: Final = 1e3


class SplitClient:
    """Classifies photos with a network that is split between this device and a TorchServe.

    Parameters:
        url: TorchServe's inference address, ``http(s)://host:port``.
        model: the name that the model is registered by.
        head: the head bundle (``<model>.head.zip`` or a folder). Without one, only photo files can be sent (`input`).
        token: the inference token, or a callable that reads it; called again once when the server refuses it.
        runtime: "onnxruntime", "torch" (with ``trust_pt2``, see :class:`TorchHead`), or a :class:`HeadRuntime`.
        cut: what :meth:`predict` uses by default, such as ``"layer2:uint8+zstd"``; else the bundle's own.
        top_k: classes in an answer, 1 to 100. raw_scores: whether answers carry all class scores.
        group: the device group that the server's statistics count this device in.
        device_token: who this device is, from ``isplit device issue``, or a callable that reads it. What the server
            made of it is in :attr:`Prediction.device`; a token that does not hold costs no prediction.
        timeout: seconds to connect, and to wait for an answer. retries: see :mod:`.transport`.
        max_batch: most images of one request. jpeg_quality: of codec "jpeg". threads: of the head runtime.
        local_fallback: while the server is unreachable or stays busy, run the whole network here, where the bundle
            has it; the prediction says ``split_point="output"``, and the time lost is its ``round_trip_ms``.

    A client keeps one connection and loaded heads; it is not for several threads at once. Raises BundleError,
    TransportError (an address that is none), UnknownSplitPointError, UnknownCodecError.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        head: str | Path | None = None,
        token: Token = None,
        runtime: str | HeadRuntime = "onnxruntime",
        cut: Cut | str | None = None,
        top_k: int = 5,
        raw_scores: bool = True,
        group: str | None = None,
        timeout: tuple[float, float] = DEFAULT_TIMEOUT,
        retries: int = 2,
        max_batch: int = DEFAULT_MAX_BATCH,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        jpeg_quality: int = 90,
        threads: int | None = None,
        trust_pt2: Trust = None,
        local_fallback: bool = False,
        device_token: Token = None,
    ) -> None:
        if not 1 <= top_k <= MAX_TOP_K:
            raise WireError(f"top_k: expected 1 to {MAX_TOP_K}, got {top_k}")
        self._model = model
        self._device_token = device_token
        self._top_k, self._raw_scores, self._group = top_k, raw_scores, group
        self._max_batch, self._jpeg_quality, self._fallback = (
            max_batch,
            jpeg_quality,
            local_fallback,
        )
        self._transport = Transport(
            url,
            token=token,
            timeout=timeout,
            retries=retries,
            max_response_bytes=max_response_bytes,
        )
        self._bundle = None if head is None else HeadBundle(head)
        try:
            self._runtime = (
                None
                if self._bundle is None
                else make_runtime(runtime, self._bundle, threads=threads, trust_pt2=trust_pt2)
            )
            self._default = resolve(self.manifest, None, cut)
        except BaseException:
            self.close()
            raise

    @property
    def manifest(self) -> Manifest | None:
        """What the head bundle says about the network; ``None`` without a bundle."""
        return None if self._bundle is None else self._bundle.manifest

    @property
    def model(self) -> str:
        """The name that the model is registered by."""
        return self._model

    @property
    def group(self) -> str:
        """The device group that this client names; "all" where it names none."""
        return self._group or "all"

    @property
    def runtime(self) -> HeadRuntime | None:
        """What runs the heads; ``None`` without a bundle."""
        return self._runtime

    @property
    def transport(self) -> Transport:
        """The connection, for further requests to the same server."""
        return self._transport

    @property
    def cut(self) -> Cut:
        """The cut that :meth:`predict` uses by default."""
        return self._default

    def resolve(self, cut: Cut | str | None = None) -> Cut:
        """The complete cut that :meth:`predict` uses for ``cut``. Raises what :meth:`predict` raises for it."""
        return resolve(self.manifest, self._default, cut)

    def predict(self, image: Image, cut: Cut | str | None = None) -> Prediction:
        """Classify one image: a path, a file's bytes, a Pillow image, uint8 pixels, or a preprocessed float32 array.

        ``cut``: a deployed one, such as ``"layer2:uint8+zstd"``, or a split point alone, which
        gets its usual codec. At ``input`` the photo is sent, at ``output`` nothing is.

        Raises:
            ImageError: the image cannot be read.
            UnknownSplitPointError, UnknownCodecError: of a cut that is not served.
            BundleError: there is no head for the cut.
            NetworkMismatchError: the server has another network.
            TransportError: and its kinds, for everything else about the server.
        """
        return self.predict_batch([image], cut)[0]

    def predict_batch(
        self, images: Sequence[Image], cut: Cut | str | None = None
    ) -> list[Prediction]:
        """Classify up to ``max_batch`` images in one request; times are those of the request, bytes are shares of it.

        Raises WireSizeError for more images, and what :meth:`predict` raises; one bad image fails the batch.
        """
        if isinstance(images, str | bytes | bytearray | memoryview | Path):
            raise ImageError(
                f"expected a list of images, got one {type(images).__name__}: predict() takes one image"
            )
        if len(images) > self._max_batch:
            raise WireSizeError(
                f"a batch of {len(images)} images, at most {self._max_batch}", limit=self._max_batch
            )
        if not images:
            return []
        cut = self.resolve(cut)
        if cut.split_point == OUTPUT:
            return self._whole(images, lost_ms=0.0)
        started = time.perf_counter()
        try:
            return self._split(images, cut)
        except (ServerUnavailableError, ServerBusyError):
            if not self._fallback or self._runtime is None or not self._runtime.has(OUTPUT):
                raise
            return self._whole(images, lost_ms=_since(started))

    def recommendation(
        self,
        classes: Iterable[int] | None = None,
        group: str | None = None,
        **constraints: Constraint,
    ) -> Recommendation:
        """Ask the server what to use now; :meth:`use` adopts the answer.

        ``classes``: class ids instead of the live mix. ``group``: by default the client's own, if it has one. For
        ``constraints`` and errors see :func:`fetch_recommendation`.
        """
        return ask(self._transport, self._model, classes, group or self._group, constraints)

    def use(self, recommendation: Recommendation) -> None:
        """Make the recommended (split point, codec) the default.

        Raises NetworkMismatchError where the recommendation is for another network than the bundle's, BundleError
        where the bundle lacks the head, UnknownSplitPointError, UnknownCodecError.
        """
        manifest = self.manifest
        if manifest is not None and recommendation.network_hash != manifest.network_hash:
            raise NetworkMismatchError(
                f"the head belongs to network {manifest.network_hash}, the recommendation is for "
                f"{recommendation.network_hash}",
                head=manifest.network_hash,
                tail=recommendation.network_hash,
            )
        cut = resolve(manifest, None, recommendation.cut)
        if cut.split_point != INPUT and (
            self._runtime is None or not self._runtime.has(cut.split_point)
        ):
            raise BundleError(
                f"the server recommends {cut.split_point!r}, but there is no head for it here"
            )
        self._default = cut

    def device_token(self) -> str | None:
        """This device's token as it is sent now; ``None`` without one. Raises AuthenticationError where the callable
        that was given fails, or gives no token."""
        return None if self._device_token is None else read_token(self._device_token)

    def close(self) -> None:
        """Close the connection and the bundle."""
        self._transport.close()
        if self._bundle is not None:
            self._bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _split(self, images: Sequence[Image], cut: Cut) -> list[Prediction]:
        """Head here, tail there."""
        tensor, prepare_ms, head_ms, encode_ms = self._encode(images, cut)
        manifest = self.manifest
        request = TailRequest(
            cut=cut,
            tensor=tensor,
            network_hash=None if manifest is None else manifest.network_hash,
            top_k=self._top_k,
            scores=self._raw_scores,
            binary_outputs=frozenset({SCORES}) if self._raw_scores else frozenset(),
            head_ms=head_ms,
            encode_ms=encode_ms,
            group=self._group or "all",
            device_token=self.device_token(),
        )
        body, length = request.encode()
        started = time.perf_counter()
        try:
            reply = self._transport.post(f"/predictions/{self._model}", body, http_headers(length))
        except UnknownCodecError as error:
            raise refused(error) from error
        round_trip_ms = _since(started)
        try:
            answer = decode_response(reply.body, header_length(reply.headers))
        except WireError as error:
            raise ProtocolError(f"the tail's answer: {error.message}") from error
        self._check(answer, request, len(images))
        timings = Timings(
            head_ms, encode_ms, round_trip_ms, answer.decode_ms, answer.tail_ms, prepare_ms
        )
        return _predictions(answer, cut, timings, len(body), len(reply.body))

    def _encode(self, images: Sequence[Image], cut: Cut) -> tuple[Tensor, float, float, float]:
        """The tensor to send, and the milliseconds that preprocessing, head and encoding took."""
        started = time.perf_counter()
        if cut.coding == "file":
            tensor = encode_images([file_bytes(image) for image in images], "file")
            return tensor, 0.0, 0.0, _since(started)
        if cut.coding == "jpeg":
            cropped = [im.crop(image, self._needed().preprocessing) for image in images]
            prepare_ms, started = _since(started), time.perf_counter()
            tensor = encode_images(
                [im.to_jpeg(photo, self._jpeg_quality) for photo in cropped], "jpeg"
            )
            return tensor, prepare_ms, 0.0, _since(started)
        x = self._preprocess(images)
        if cut.split_point == INPUT:
            prepare_ms, started = _since(started), time.perf_counter()
            return encode_activation(x, cut.coding, INPUT), prepare_ms, 0.0, _since(started)
        self._load(cut.split_point)
        prepare_ms, started = _since(started), time.perf_counter()
        activation = self._run(cut.split_point, x)
        head_ms, started = _since(started), time.perf_counter()
        axis = self._needed().split_point(cut.split_point).channel_axis
        return (
            encode_activation(activation, cut.coding, channel_axis=axis),
            prepare_ms,
            head_ms,
            _since(started),
        )

    def _whole(self, images: Sequence[Image], *, lost_ms: float) -> list[Prediction]:
        """The whole network here. ``lost_ms``: what was spent on a server that did not answer."""
        manifest = self._needed()
        started = time.perf_counter()
        x = self._preprocess(images)
        self._load(OUTPUT)
        prepare_ms, started = _since(started), time.perf_counter()
        scores = self._run(OUTPUT, x)
        head_ms = _since(started)
        answer = TailResponse.from_scores(
            scores,
            manifest.classes,
            k=self._top_k,
            with_scores=self._raw_scores,
            split_point=OUTPUT,
            network_hash=manifest.network_hash,
        )
        timings = Timings(head_ms=head_ms, round_trip_ms=lost_ms, prepare_ms=prepare_ms)
        return _predictions(answer, ON_DEVICE, timings, 0, 0)

    def _preprocess(self, images: Sequence[Image]) -> FloatArray:
        pre = self._needed().preprocessing
        return np.stack([im.preprocess(image, pre) for image in images])

    def _load(self, split_point: str) -> None:
        """Load a head at its first use: seconds for a large one, and no part of the time that the server is told."""
        load = getattr(self._runtime, "load", None)
        if load is not None:
            load(split_point)

    def _run(self, split_point: str, x: FloatArray) -> FloatArray:
        self._needed()
        assert self._runtime is not None  # noqa: S101  there is a bundle, so there is a runtime
        return self._runtime.run(split_point, x)

    def _needed(self) -> Manifest:
        manifest = self.manifest
        if manifest is None:
            raise BundleError(
                "this needs the head bundle: SplitClient(..., head='<model>.head.zip')"
            )
        return manifest

    def _check(self, answer: TailResponse, request: TailRequest, items: int) -> None:
        """The answer must be to this request. Raises ProtocolError."""
        found = (answer.split_point, len(answer.top_class), answer.scores is not None)
        expected = (request.split_point, items, request.scores)
        if found != expected:
            raise ProtocolError(
                f"the tail answered (split point, items, scores) {found}, expected {expected}"
            )
        if request.network_hash not in (None, answer.network_hash):
            raise ProtocolError(
                f"network {answer.network_hash} answered, {request.network_hash} was asked"
            )


def _predictions(
    answer: TailResponse, cut: Cut, timings: Timings, sent: int, received: int
) -> list[Prediction]:
    items = len(answer.top_class)
    rows = zip(
        answer.top_class, answer.top_label, answer.top_score, answer.top_probability, strict=True
    )
    return [
        Prediction(
            top=tuple(
                TopClass(int(c), name, float(s), float(p))
                for c, name, s, p in zip(*row, strict=True)
            ),
            scores=None if answer.scores is None else answer.scores[i],
            cut=cut,
            bytes_sent=_share(sent, items, i),
            bytes_received=_share(received, items, i),
            timings=timings,
            request_id=answer.request_id,
            device=answer.device,
            probe_rate=answer.probe_rate,
        )
        for i, row in enumerate(rows)
    ]


def _share(total: int, items: int, item: int) -> int:
    """Whole bytes of one item; the shares of all items sum to the total."""
    return total // items + (item < total % items)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * _MS
