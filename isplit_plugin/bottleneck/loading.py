"""Reading the file of a bottleneck."""

from __future__ import annotations

from pathlib import Path

from ..errors import ArtifactError, NetworkMismatchError
from ..network import CapturedNetwork
from ..schema import Preprocessing
from . import tensor_files
from .autoencoder import Autoencoder, AutoencoderConfig
from .parts import decoder_tail, encoder_head
from .trained import FILE_KEY, Bottleneck, CodeMeasurement

__all__ = ["load_bottleneck"]


def load_bottleneck(
    path: str | Path, net: CapturedNetwork, preprocessing: Preprocessing | None = None
) -> Bottleneck:
    """Read a bottleneck of this network.

    Parameters:
        path: a file that :meth:`Bottleneck.save` wrote.
        net: the network that it belongs to.
        preprocessing: the network's preprocessing. If given, the network hash is checked;
            otherwise only that the split point exists and has the same shape.

    Raises:
        NetworkMismatchError: the bottleneck belongs to another network.
        SplitPointError, UnknownSplitPointError: the network has no such split point.
        ArtifactError: the file does not exist or is not a bottleneck.
    """
    path = Path(path)
    header, tensors = tensor_files.read(path, FILE_KEY)
    if preprocessing is not None:
        tensor_files.check_network(path, header, net.network_hash(preprocessing))
    try:
        point = net.split_point(str(header["split_point"]))
        if tuple(header["shape"]) != point.shape:
            raise NetworkMismatchError(
                f"{path}: made for {point.name!r} of shape {header['shape']}, "
                f"this network has {list(point.shape)}"
            )
        config = AutoencoderConfig(
            int(header["width"]), int(header["stride"]), int(header["depth"])
        )
        finetuned = bool(header["finetuned"])
        bottleneck = Bottleneck(
            name=str(header["name"]),
            network_hash=str(header["network_hash"]),
            autoencoder=Autoencoder(point, config).eval(),
            measurements=tuple(map(CodeMeasurement.from_json, header["measurements"])),
            training=dict(header["training"]),
            head_weights=tensor_files.without_prefix("head", tensors) if finetuned else None,
            tail_weights=tensor_files.without_prefix("tail", tensors) if finetuned else None,
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: not a bottleneck ({type(error).__name__}: {error})"
        ) from error
    tensor_files.load_module(path, bottleneck.autoencoder, "autoencoder", tensors)
    # Weights that do not fit the network's parts raise now, not when the parts are used.
    encoder_head(net, bottleneck)
    decoder_tail(net, bottleneck)
    return bottleneck
