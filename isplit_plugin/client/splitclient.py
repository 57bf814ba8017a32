"""``SplitClient``: the head runs here, the tail on the server."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .. import image as im
from ..closing import Closing
from ..errors import (
    BundleError,
    ImageError,
    NetworkMismatchError,
    QueryError,
    UnknownCodecError,
    UnknownSplitPointError,
    UnknownVersionError,
    WireError,
    WireSizeError,
)
from ..exits import MIN_VERSION
from ..image import Image
from ..schema import OUTPUT, Cut, FloatArray, Manifest, Prediction, Recommendation
from ..wire import DEFAULT_MAX_BATCH, MAX_TOP_K, Tensor
from .budget import DEFAULT_TIMEOUT, Timeout
from .bundle import HeadBundle
from .cool_down import DEFAULT_COOL_DOWN, CoolDown
from .cuts import recommended, resolve, writes
from .exchange import Exchange, LinkReport
from .exits import DeviceExits
from .fallback import WholeNetwork
from .local import LocalNetwork, read_each
from .recommendations import Constraint, Subject, ask
from .route import Route
from .runtimes import HeadRuntime, Trust, make_runtime
from .signed_exits import PublicKey
from .split import SplitNetwork
from .transport import MAX_RESPONSE_BYTES, Reply, Token, Transport

_LOGGER = logging.getLogger("isplit.client")


class SplitClient(Closing):
    """Classifies photos with a network that is split between this device and a TorchServe.

    A client needs the forwarder's address, the name of the model, the head bundle that
    ``isplit package`` wrote, and the device token that the operator issued::

        with SplitClient(
            "https://forwarder.example:8443",
            model="resnet50",
            head="resnet50.head.zip",
            device_token=Path("phone-1.token").read_text().strip(),
        ) as client:
            prediction = client.predict("cat.jpg")
            print(prediction.label, prediction.probability, prediction.bytes_sent)

    The bundle names the cut to start with. Name another one for the client or for one photo. A cut
    is a split point and a codec, and its text form is enough::

        client = SplitClient(url, model="resnet50", head=head, token=token, cut="layer2:uint8+zstd")
        client.predict("cat.jpg")                    # the head up to layer2 runs here
        client.predict("cat.jpg", cut="input:webp@75")  # the photo is sent, as WebP of quality 75
        client.predict("cat.jpg", cut="output")      # the whole network runs here

    Or follow the server's recommendation, and ask again now and then::

        client.use(client.recommendation(bandwidth_mbps=4))

    A client keeps its connections and the heads that it has loaded. Several threads may use it at
    once, each over a connection of its own. A cut that :meth:`use` adopts applies to predictions
    that begin afterwards, of all threads. A head runtime of your own must stand several threads,
    too; the two that ship do.

    Parameters:
        url: the address of a forwarder, or TorchServe's inference address,
            ``http(s)://host:port``.
        model: the name that the model is registered by.
        version: the version of the model to use. By default it is that of the head bundle, and
            where the server does not have it any more, the server's default version if that has
            the bundle's network; without a bundle, the server's default version.
        head: the head bundle: ``MODEL.head.zip``, or a folder with its content. Without one, the
            client sends photo files only.
        token: TorchServe's inference token, or a callable that returns it; without a forwarder
            only. The callable is called again, once, when the server refuses the token.
        runtime: "onnxruntime", "torch" (see :class:`TorchHead`), a runtime of another package, or
            a :class:`HeadRuntime`.
        cut: the cut that :meth:`predict` uses by default; by default the bundle's own.
        top_k: classes in an answer, 1 to 100.
        raw_scores: whether answers carry the scores of all classes; four bytes for each class.
        group: the device group in which the server's statistics count this device.
        timeout: seconds for one attempt of a request, from connecting to the last byte of the
            answer; or two numbers, seconds to connect and seconds for the attempt.
        deadline: seconds for all attempts of a request and the pauses between them; by default as
            long as one attempt. See :class:`Transport`.
        retries: how often a request is sent again at most; see :class:`Transport`.
        max_batch: the most images of one request.
        max_response_bytes: the largest answer to accept.
        threads: CPU threads of the head runtime; by default the runtime decides.
        trust_pt2: hashes of PyTorch heads to trust; see :class:`TorchHead`.
        local_fallback: run the whole network here while the server is unreachable or busy, if the
            bundle can. Such a prediction has ``fallback`` set and the split point `output`, and its
            ``round_trip_ms`` is the time lost on the server. Only the first one loses time: then
            the client cools down, and a thread in the background asks the server for ``/ping``
            until it answers. :meth:`close` ends the thread.
        cool_down: seconds of the shortest and the longest pause between two such questions. A
            pause is twice as long as the one before.
        device_token: a token from ``isplit device issue``, or a callable that returns it. A
            forwarder admits the device by it, where no ``token`` is given. TorchServe itself knows
            the device by it, and does not fail a prediction on a bad one: see
            :attr:`Prediction.device`.
        exit_key: the operator's public key, a PEM file or 32 bytes. With it, the device answers by
            itself where the server has proven that it may: see :attr:`Prediction.exit`. Only single
            images, and not with ``raw_scores``.
        state_dir: a folder where the client keeps what has to outlive it, which is made if it is
            missing: the newest releases of exits. Without one, a client that was started again
            takes an old release that somebody sends, until that expires.

    Raises:
        BundleError: the bundle or its runtime cannot be used.
        TransportError: ``url`` is not an address, or ``timeout``, ``deadline`` or ``cool_down`` no
            seconds.
        UnknownSplitPointError: ``cut`` names a split point that is not deployed.
        UnknownCodecError: ``cut`` names an unknown codec.
        QueryError: ``model`` or ``version`` is no name.
        WireError: ``top_k`` is out of range.
        SecretError: ``exit_key`` is no public key.
        ArtifactError: ``state_dir`` cannot be made.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        version: str | None = None,
        head: str | Path | None = None,
        token: Token = None,
        runtime: str | HeadRuntime = "onnxruntime",
        cut: Cut | str | None = None,
        top_k: int = 5,
        raw_scores: bool = False,
        group: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        deadline: float | None = None,
        retries: int = 2,
        max_batch: int = DEFAULT_MAX_BATCH,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        threads: int | None = None,
        trust_pt2: Trust = None,
        local_fallback: bool = False,
        cool_down: tuple[float, float] = DEFAULT_COOL_DOWN,
        device_token: Token = None,
        exit_key: PublicKey | None = None,
        state_dir: str | Path | None = None,
    ) -> None:
        if not 1 <= top_k <= MAX_TOP_K:
            raise WireError(f"top_k: expected 1 to {MAX_TOP_K}, got {top_k}")
        self._group = group
        self._raw_scores = raw_scores
        self._max_batch = max_batch
        self._cool_down: CoolDown | None = None
        self._exits: DeviceExits | None = None
        self._transport = Transport(
            url,
            token=device_token if token is None else token,
            timeout=timeout,
            deadline=deadline,
            retries=retries,
            max_response_bytes=max_response_bytes,
        )
        if local_fallback:
            self._cool_down = CoolDown(self._transport.for_pings(), cool_down)
            # A client that was dropped without close() leaves no thread behind either.
            weakref.finalize(self, self._cool_down.stop)
        self._bundle = None if head is None else HeadBundle(head)
        try:
            self._route = Route(self._transport, model, version, self.manifest)
            engine = None
            if self._bundle is not None:
                engine = make_runtime(runtime, self._bundle, threads=threads, trust_pt2=trust_pt2)
            self._local = LocalNetwork(self._bundle, engine)
            self._whole = WholeNetwork(self._local, model, top_k=top_k, raw_scores=raw_scores)
            self._cut = resolve(self.manifest, None, cut)
            self._exchange = Exchange(
                self._route,
                self.manifest,
                top_k=top_k,
                raw_scores=raw_scores,
                group=self.group,
                device_token=device_token,
            )
            if exit_key is not None:
                manifest = self._local.required_manifest()
                subject = Subject(self.model, None, manifest.network_hash)
                self._exits = DeviceExits(
                    self._transport, subject, manifest, exit_key, state_dir=state_dir
                )
            self._split = SplitNetwork(
                self._local,
                self._exchange,
                self._exits,
                exits_may_answer=not raw_scores,
                call_s=self._transport.call_s,
            )
        except BaseException:
            self.close()
            raise

    def predict(
        self, image: Image, cut: Cut | str | None = None, *, may_exit: bool = True
    ) -> Prediction:
        """Classify one image.

        Parameters:
            image: a path, the bytes of a file, a file object opened in binary mode, a Pillow image,
                uint8 pixels of shape (H, W, 3), or a preprocessed float32 array of shape (C, H, W).
                Files are JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PNM.
            cut: a deployed cut, such as ``"layer2:uint8+zstd"``, or a split point alone, which
                gets its usual codec; a codec alone (``"input:webp"``) gets its usual quality. At
                `input` the photo is sent, at `output` nothing is.
            may_exit: whether an exit may answer; otherwise it only watches. Without ``exit_key``
                there is none.

        Raises:
            ImageError: the image cannot be read.
            UnknownSplitPointError: the split point is not deployed.
            UnknownCodecError: the client or the server does not know the codec.
            MissingCodecError: ``cut`` names a photo that this Pillow cannot write.
            BundleError: there is no head for the cut.
            NetworkMismatchError: the server has another network: the device needs a new bundle.
            UnknownVersionError: the server does not have ``version``; it names those it has.
            TransportError: the server cannot be reached, is busy or refuses the token.
        """
        return self.predict_batch([image], cut, may_exit=may_exit)[0]

    def predict_batch(
        self, images: Sequence[Image], cut: Cut | str | None = None, *, may_exit: bool = True
    ) -> list[Prediction]:
        """Classify up to ``max_batch`` images in one request.

        Every prediction has the times of the whole request and its share of the bytes. One image
        that cannot be read fails the batch; the ImageError names its index, also as
        ``details["index"]``. Raises WireSizeError for too many images, and otherwise as
        :meth:`predict`.
        """
        if isinstance(images, str | bytes | bytearray | memoryview | Path):
            raise ImageError(
                f"expected a list of images, got one {type(images).__name__}: "
                "predict() takes one image"
            )
        if len(images) > self._max_batch:
            raise WireSizeError(
                f"expected at most {self._max_batch} images, got {len(images)}",
                limit=self._max_batch,
            )
        if not images:
            return []
        cut = self.resolve(cut)
        images = read_each(images, im.read_once)
        if cut.split_point == OUTPUT:
            return self._whole.classify(images)
        if self._cool_down is None or not self._whole.is_here:
            return self._split.classify(images, cut, may_exit=may_exit)
        return self._whole.replace_server(
            images,
            lambda: self._split.classify(images, cut, may_exit=may_exit),
            self._cool_down,
        )

    def recommendation(
        self,
        classes: Iterable[int] | None = None,
        group: str | None = None,
        **constraints: Constraint,
    ) -> Recommendation:
        """Ask the server where to cut. :meth:`use` adopts the answer.

        The answer is for the bundle's network. It is for the bundle's version too, unless that
        version is gone and another one has the same network.

        Parameters:
            classes: ids of the classes to ask for; by default the live mix.
            group: a device group; by default the client's own, if it has one.
            constraints: see :func:`fetch_recommendation`, which also lists the errors.
        """
        group = group or self._group
        manifest = self.manifest
        version = self._route.version
        if manifest is None:
            subject = Subject(self.model, version)
            return ask(self._transport, subject, classes, group, constraints)
        ids = None if classes is None else list(classes)
        subject = Subject(self.model, version or manifest.version, manifest.network_hash)
        try:
            return ask(self._transport, subject, ids, group, constraints)
        except (UnknownVersionError, NetworkMismatchError):
            if version is not None:
                raise
        return ask(self._transport, subject._replace(version=None), ids, group, constraints)

    def use(self, recommendation: Recommendation) -> None:
        """Make the recommended cut the default of :meth:`predict`.

        A photo that this Pillow cannot write becomes the usual one that it can, with a warning.

        Raises:
            NetworkMismatchError: the recommendation is for another network than the bundle's.
            BundleError: there is no head for the cut.
            UnknownSplitPointError: the bundle's network is not deployed at the split point.
            UnknownCodecError: this client does not know the codec.
        """
        cut = recommended(self.manifest, recommendation)
        if not self._local.has_head(cut.split_point):
            raise BundleError(
                f"the server recommends {cut.split_point!r}, but there is no head for it here"
            )
        self._cut = cut
        _LOGGER.info("%s: the cut is %s now", self.model, cut)

    def note_exits(self, advice: Recommendation) -> None:
        """Fetch the exits that advice names, in the background, for cuts that this client can take.

        Answers at a cut name its exit, too, but of a cut that is never taken nobody would hear.
        Does nothing without ``exit_key``, and with advice for another network.
        """
        manifest = self.manifest
        if self._exits is None or manifest is None or advice.network_hash != manifest.network_hash:
            return
        for row in advice.exits:
            if not row.cut.is_refining and self.can_take(row.cut):
                self._exits.note(row.cut, f"{row.version[:MIN_VERSION]}.{row.release}")

    def resolve(self, cut: Cut | str | None = None) -> Cut:
        """The complete cut that :meth:`predict` uses for ``cut``. Raises as :meth:`predict`."""
        return resolve(self.manifest, self._cut, cut)

    def can_take(self, cut: Cut) -> bool:
        """Whether this client can predict at a cut: deployed, and with what it needs here."""
        try:
            return self._local.has_head(self.resolve(cut).split_point) and writes(cut)
        except (UnknownSplitPointError, UnknownCodecError, BundleError, QueryError):
            return False

    @property
    def cut(self) -> Cut:
        """The cut that :meth:`predict` uses by default."""
        return self._cut

    @property
    def model(self) -> str:
        """The name that the model is registered by."""
        return self._route.model

    @property
    def group(self) -> str:
        """The device group of this client; "all" where it names none."""
        return self._group or "all"

    @property
    def manifest(self) -> Manifest | None:
        """The bundle's description of the network; ``None`` without a bundle."""
        return None if self._bundle is None else self._bundle.manifest

    @property
    def raw_scores(self) -> bool:
        """Whether answers carry the scores of all classes. Then no exit answers."""
        return self._raw_scores

    @property
    def runtime(self) -> HeadRuntime | None:
        """The engine that runs the heads; ``None`` without a bundle."""
        return self._local.runtime

    @property
    def transport(self) -> Transport:
        """The connections, for further requests to the same server."""
        return self._transport

    @property
    def exits(self) -> DeviceExits | None:
        """The exits of this device; ``None`` without ``exit_key``."""
        return self._exits

    def encode_activation(self, activation: FloatArray, cut: Cut) -> Tensor:
        """The tensor that a request sends for an activation (N, ...) at a cut.

        Raises BundleError without a head bundle, or without what the codec needs in it.
        """
        return self._local.encode_activation(activation, cut)

    def report_link(self, link: LinkReport) -> None:
        """From here on, tell the server with each request what link this device has.

        The server's advice for this device group then rests on the links that its devices have.
        """
        self._exchange.link = link

    def device_token(self) -> str | None:
        """This device's token now; ``None`` without one.

        Raises:
            AuthenticationError: the callable that was passed in fails or returns no token.
        """
        return self._exchange.device_token()

    def post_to_tail(
        self, body: bytes, headers: Mapping[str, str], *, max_bytes: int | None = None
    ) -> Reply:
        """POST a body to the version of the model that this client uses.

        ``max_bytes``: the largest answer to accept, at most the client's ``max_response_bytes``.

        Raises as :meth:`Transport.post`, and NetworkMismatchError and UnknownVersionError as
        :meth:`predict`.
        """
        return self._route.post(body, headers, max_bytes=max_bytes)

    def close(self) -> None:
        """Close the connections and the bundle, and end the cool-down."""
        if self._cool_down is not None:
            self._cool_down.close()
        if self._exits is not None:
            self._exits.close()
        self._transport.close()
        if self._bundle is not None:
            self._bundle.close()
