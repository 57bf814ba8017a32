"""What runs a head on the device. A runtime imports its engine when it is made, not when this module is."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import BundleError
from ..registry import Registry, named_callable
from ..schema import OUTPUT, FloatArray
from .bundle import HeadBundle

Trust = str | Mapping[str, str] | None
"""What a ``.pt2`` is trusted by: the bundle's SHA-256, or one for each split point."""
_Runner = Callable[[FloatArray], npt.NDArray[Any]]


@runtime_checkable
class HeadRuntime(Protocol):
    """Any engine that runs heads; hand an instance to ``SplitClient(runtime=...)`` for an accelerator of your own.

    One that also has ``load(split_point)`` is told to load a head before the time of its first run is taken.
    """

    def has(self, split_point: str) -> bool:
        """Whether there is a head for this split point (its first name, or ``output``)."""
        ...

    def run(self, split_point: str, x: FloatArray) -> FloatArray:
        """(N, C, H, W) float32 to the activation (N, ...) float32; class scores (N, classes) at ``output``."""
        ...


class _BundleRuntime:
    """Loads a head at its first use, keeps it, and checks what comes out of it."""

    suffix: str

    def __init__(self, bundle: HeadBundle) -> None:
        self._bundle = bundle
        self._loaded: dict[str, _Runner] = {}
        self._lock = threading.Lock()

    def has(self, split_point: str) -> bool:
        return self._bundle.has(split_point, self.suffix)

    def load(self, split_point: str) -> None:
        """Load the head now, so that its first run takes no longer than the others. Raises BundleError."""
        self._runner(split_point)

    def run(self, split_point: str, x: FloatArray) -> FloatArray:
        """Raises BundleError: no such head, a file the engine cannot load, or a head that fails or gives another
        shape than the manifest says."""
        runner = self._runner(split_point)
        name = f"heads/{split_point}.{self.suffix}"
        try:
            out = np.asarray(runner(x))
        except Exception as error:  # engines have exceptions of their own, without a common base
            raise BundleError(
                f"{name}: the head failed on {x.shape} ({_first_line(error)})", file=name
            ) from error
        manifest = self._bundle.manifest
        shape = (
            (len(manifest.classes),)
            if split_point == OUTPUT
            else manifest.split_point(split_point).shape
        )
        if out.dtype != np.float32 or out.shape != (len(x), *shape):
            raise BundleError(
                f"{name}: expected float32 {(len(x), *shape)} from the head, got {out.dtype} {out.shape}",
                file=name,
            )
        return out

    def _runner(self, split_point: str) -> _Runner:
        with self._lock:
            runner = self._loaded.get(split_point)
            if runner is None:
                runner = self._loaded[split_point] = self._load(split_point)
        return runner

    def _load(self, split_point: str) -> _Runner:
        raise NotImplementedError


class OnnxHead(_BundleRuntime):
    """onnxruntime, the default. ``threads``: ``None`` leaves the choice to it; ``providers``: its execution providers,
    tried in order."""

    suffix = "onnx"

    def __init__(
        self,
        bundle: HeadBundle,
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        super().__init__(bundle)
        try:
            import onnxruntime
        except ImportError as error:
            raise BundleError(
                f"ONNX heads need onnxruntime ({error}): pip install 'isplit-plugin[onnx]', or choose runtime='torch'"
            ) from error
        self._engine = onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = 3
        if threads is not None:
            self._options.intra_op_num_threads = threads
            self._options.inter_op_num_threads = 1
        self._providers = list(providers)

    def _load(self, split_point: str) -> _Runner:
        data = self._bundle.read(split_point, self.suffix)
        try:
            session = self._engine.InferenceSession(data, self._options, providers=self._providers)
            (given,), (result,) = session.get_inputs(), session.get_outputs()
        except Exception as error:
            name = f"heads/{split_point}.onnx"
            raise BundleError(
                f"{name}: onnxruntime cannot load it ({_first_line(error)})", file=name
            ) from error
        names, key = [result.name], given.name
        return lambda x: np.asarray(session.run(names, {key: x})[0])


class TorchHead(_BundleRuntime):
    """torch, for devices that have it. A ``.pt2`` file is code: loading one runs whatever its author put in.

    So it is loaded only if its hash reached the device by another way than the file: ``trust`` is the SHA-256 of the
    whole bundle (of ``manifest.json`` for a folder), or a mapping from split points to the SHA-256 of their ``.pt2``.
    Raises BundleError where nothing is pinned, or another file came. ``threads`` sets torch's, for the whole process.
    """

    suffix = "pt2"

    def __init__(self, bundle: HeadBundle, *, trust: Trust, threads: int | None = None) -> None:
        super().__init__(bundle)
        if not trust:
            raise BundleError(
                "a .pt2 head is code and is loaded only with trust_pt2: the SHA-256 of the bundle, "
                "or of each head by its split point, from a source you trust"
            )
        if isinstance(trust, str) and trust.lower() != bundle.sha256:
            raise BundleError(
                f"head bundle {bundle.path}: its SHA-256 is {bundle.sha256}, trust_pt2 says {trust[:80]}"
            )
        self._trust = trust
        try:
            import torch
        except ImportError as error:
            raise BundleError(
                f".pt2 heads need torch ({error}), or choose runtime='onnxruntime'"
            ) from error
        self._torch: Any = torch
        if threads is not None:
            torch.set_num_threads(threads)

    def program(self, split_point: str) -> Any:
        """The trusted head as a ``torch.export.ExportedProgram``, for who looks inside. Raises BundleError."""
        name, torch = f"heads/{split_point}.pt2", self._torch
        data = self._bundle.read(split_point, self.suffix)
        if not isinstance(self._trust, str):
            pinned, found = (
                self._trust.get(split_point, ""),
                self._bundle.file_hash(split_point, self.suffix),
            )
            if pinned.lower() != found:
                raise BundleError(
                    f"{name}: its SHA-256 is {found}, trust_pt2 says {pinned[:80] or 'nothing'}",
                    file=name,
                )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's own loader
                return torch.export.load(io.BytesIO(data))
        except Exception as error:
            raise BundleError(
                f"{name}: torch cannot load it ({_first_line(error)})", file=name
            ) from error

    def _load(self, split_point: str) -> _Runner:
        torch, module = self._torch, self.program(split_point).module()

        def run(x: FloatArray) -> npt.NDArray[Any]:
            with torch.inference_mode():
                out: npt.NDArray[Any] = module(torch.from_numpy(x)).numpy()
            return out

        return run


class RuntimeFactory(Protocol):
    """Makes a runtime for a bundle. An entry point of the group ``isplit.runtimes`` names one."""

    def __call__(self, bundle: HeadBundle, *, threads: int | None, trust_pt2: Trust) -> HeadRuntime:
        """Raises BundleError.

        Parameters:
            bundle: The head bundle.
            threads: CPU threads; ``None``: the engine's choice.
            trust_pt2: What a ``.pt2`` head is trusted by, see :class:`TorchHead`.
        """
        ...


def _onnxruntime(bundle: HeadBundle, *, threads: int | None, trust_pt2: Trust) -> HeadRuntime:
    return OnnxHead(bundle, threads=threads)


def _torch(bundle: HeadBundle, *, threads: int | None, trust_pt2: Trust) -> HeadRuntime:
    return TorchHead(bundle, trust=trust_pt2, threads=threads)


RUNTIMES: Final[Registry[RuntimeFactory]] = Registry("isplit.runtimes", named_callable)
"""Runtimes by name. Other packages add theirs as entry points of this group: the entry point's
name is the runtime's, and its object is the factory."""

RUNTIMES["onnxruntime"] = _onnxruntime
RUNTIMES["torch"] = _torch


def make_runtime(
    runtime: str | HeadRuntime,
    bundle: HeadBundle,
    *,
    threads: int | None = None,
    trust_pt2: Trust = None,
) -> HeadRuntime:
    """The runtime of a name in ``RUNTIMES``; an instance is returned as it is.

    Raises BundleError.
    """
    if not isinstance(runtime, str):
        return runtime
    factory = RUNTIMES.get(runtime)
    if factory is None:
        raise BundleError(f"unknown head runtime {runtime[:80]!r}; known: {', '.join(RUNTIMES)}")
    return factory(bundle, threads=threads, trust_pt2=trust_pt2)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
