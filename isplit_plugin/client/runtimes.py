"""Runtimes: the engines that run heads on the device.

A runtime imports its engine when it is made. Importing this module loads none.
"""

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
from .stopping import current_stop

Trust = str | Mapping[str, str] | None
"""The SHA-256 of a trusted bundle, or those of trusted ``.pt2`` files by split point."""
_FATAL: Final = 4
"""The severity that onnxruntime logs from: a run that is ended is no error."""
_Runner = Callable[[FloatArray], npt.NDArray[Any]]


@runtime_checkable
class HeadRuntime(Protocol):
    """An engine that runs heads. Pass an instance as ``SplitClient(runtime=...)``.

    A runtime may also have a method ``load(split_point)``. The client calls it before it measures
    the time of a head. A runtime that can end a run asks :func:`current_stop` for what may end it.
    """

    def has(self, split_point: str) -> bool:
        """Whether there is a head for this split point, given by its first name or ``output``."""
        ...

    def run(self, split_point: str, x: FloatArray) -> FloatArray:
        """Run the head on ``x``, shape (N, C, H, W).

        Returns the activation, shape (N, ...); at ``output`` the class scores, shape (N, classes).
        """
        ...


class _BundleRuntime:
    """Loads a head at its first use, keeps it, and checks its outputs."""

    suffix: str

    def __init__(self, bundle: HeadBundle) -> None:
        self._bundle = bundle
        self._loaded: dict[str, _Runner] = {}
        self._lock = threading.Lock()

    def has(self, split_point: str) -> bool:
        return self._bundle.has(split_point, self.suffix)

    def load(self, split_point: str) -> None:
        """Load the head now, so that its first run is not slower. Raises BundleError."""
        self._runner(split_point)

    def run(self, split_point: str, x: FloatArray) -> FloatArray:
        """Run a head; see :class:`HeadRuntime`.

        Raises:
            BundleError: there is no such head, the engine cannot load or run it, or its output has
                another shape than the manifest says.
        """
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
                f"{name}: expected float32 {(len(x), *shape)} from the head, "
                f"got {out.dtype} {out.shape}",
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
    """Runs ``.onnx`` heads with onnxruntime, the default.

    Parameters:
        threads: CPU threads; ``None`` lets onnxruntime decide.
        providers: execution providers of onnxruntime, in order of preference.

    Raises:
        BundleError: onnxruntime is not installed.
    """

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
                f"ONNX heads need onnxruntime ({error}): pip install 'isplit-plugin[onnx]', "
                "or choose runtime='torch'"
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
            (head_input,) = session.get_inputs()
            (head_output,) = session.get_outputs()
        except Exception as error:
            name = f"heads/{split_point}.onnx"
            raise BundleError(
                f"{name}: onnxruntime cannot load it ({_first_line(error)})", file=name
            ) from error
        input_name = head_input.name
        output_names = [head_output.name]

        def run(x: FloatArray) -> npt.NDArray[Any]:
            stop = current_stop()
            if stop is None:
                return np.asarray(session.run(output_names, {input_name: x})[0])
            options = self._engine.RunOptions()
            options.log_severity_level = _FATAL
            with stop.ending(lambda: setattr(options, "terminate", True)):
                return np.asarray(session.run(output_names, {input_name: x}, options)[0])

        return run


class TorchHead(_BundleRuntime):
    """Runs ``.pt2`` heads with PyTorch.

    A ``.pt2`` file is code: loading it runs whatever its author put in. So a head is loaded only if
    its hash is known from a source other than the file itself.

    Parameters:
        trust: the SHA-256 of the whole bundle (of ``manifest.json`` for a folder), or a mapping
            from split points to the SHA-256 of their ``.pt2`` files.
        threads: CPU threads of PyTorch, for the whole process.

    Raises:
        BundleError: ``trust`` is missing or names another bundle, or PyTorch is not installed.
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
                f"head bundle {bundle.path}: its SHA-256 is {bundle.sha256}, "
                f"trust_pt2 says {trust[:80]}"
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
        """The head as a ``torch.export.ExportedProgram``. Raises BundleError if not trusted."""
        name = f"heads/{split_point}.pt2"
        data = self._bundle.read(split_point, self.suffix)
        if not isinstance(self._trust, str):
            trusted = self._trust.get(split_point, "")
            actual = self._bundle.file_hash(split_point, self.suffix)
            if trusted.lower() != actual:
                raise BundleError(
                    f"{name}: its SHA-256 is {actual}, trust_pt2 says {trusted[:80] or 'nothing'}",
                    file=name,
                )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's own loader
                return self._torch.export.load(io.BytesIO(data))
        except Exception as error:
            raise BundleError(
                f"{name}: torch cannot load it ({_first_line(error)})", file=name
            ) from error

    def _load(self, split_point: str) -> _Runner:
        torch = self._torch
        module = self.program(split_point).module()

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
            bundle: the head bundle.
            threads: CPU threads; ``None`` lets the engine decide.
            trust_pt2: hashes of trusted ``.pt2`` files; see :class:`TorchHead`.
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
    if isinstance(runtime, type):
        raise BundleError(
            f"expected an instance of a head runtime, got the class {runtime.__name__}"
        )
    if not isinstance(runtime, str):
        return runtime
    factory = RUNTIMES.get(runtime)
    if factory is None:
        raise BundleError(f"unknown head runtime {runtime[:80]!r}; known: {', '.join(RUNTIMES)}")
    return factory(bundle, threads=threads, trust_pt2=trust_pt2)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
