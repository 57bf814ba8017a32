"""What a split-gradient probe costs, as a multiple of a plain request: on the device, on the
server, on the wire.

In one process without HTTP, so that the figures are those of the work itself: preprocessing and network aside, a plain
request is head, encoding | decoding, tail; a probe is head, encoding | decoding, tail and its backward pass, ticket,
encoding | decoding, the head's backward pass; and then the endpoint's check and the store's transaction.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from isplit_plugin.device_tokens import TokenVerifier
from isplit_plugin.network import CapturedNetwork, capture, efficientnet_lite0, profile
from isplit_plugin.probing.endpoint import take_report
from isplit_plugin.probing.messages import ProbeReport, ProbeResponse, decode_probe_response
from isplit_plugin.probing.tickets import Ticket
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Cut, Manifest
from isplit_plugin.serving.packaging import make_manifest
from isplit_plugin.traffic import Store
from isplit_plugin.wire import (
    TailRequest,
    TailResponse,
    Tensor,
    decode_activation,
    encode_activation,
)

from .bias import DEPTHS, head_importance, photos
from .harness import Row, against, interleaved, row

CODEC = "uint8+zstd"


def run(quick: bool = False) -> list[Row]:
    """Rows for EfficientNet-Lite0 at three cuts, batch 1, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        loaded = efficientnet_lite0()
        net = capture(loaded.model, loaded.example_input)
        x = photos(4, loaded.preprocessing)
        blocks = [p.name for p in net.split_points if p.is_block]
        cuts = [blocks[int(depth * len(blocks))] for depth in (DEPTHS[:1] if quick else DEPTHS)]
        images = [(one.numpy(), None) for one in x]
        measured = profile(
            net,
            images,
            preprocessing=loaded.preprocessing,
            classes=loaded.classes,
            split_points=cuts[:1],
        )
        manifest, _ = make_manifest(
            net, model="lite0", version="1.0", profile=measured, preprocessing=loaded.preprocessing,
            classes=loaded.classes, deployed=cuts,
        )  # fmt: skip
        for cut in cuts:
            rows += _costs(net, manifest, measured, cut, x[:1], rounds=3 if quick else 15)
    finally:
        torch.set_num_threads(threads)
    return rows


def _costs(
    net: CapturedNetwork,
    manifest: Manifest,
    measured: Profile,
    cut: str,
    x: torch.Tensor,
    *,
    rounds: int,
) -> list[Row]:
    head, tail = net.bisect(cut)
    inside = head_importance(net, cut)
    point = net.split_point(cut)
    secret = os.urandom(32)

    def send(activation: torch.Tensor) -> Tensor:
        return encode_activation(
            activation.contiguous().numpy(), CODEC, channel_axis=point.channel_axis
        )

    def device_plain() -> object:
        with torch.inference_mode():
            return send(head(x))

    def device_probe() -> np.ndarray:
        forward = inside.run(x)
        send(forward.activation)
        return forward.finish(
            torch.from_numpy(decode_probe_response(*answer, point.shape).gradient)
        )

    def server_plain() -> object:
        with torch.inference_mode():
            scores = tail(torch.from_numpy(decode_activation(sent, shape=point.shape))).numpy()
        response = TailResponse.from_scores(
            scores,
            manifest.classes,
            k=5,
            with_scores=False,
            split_point=cut,
            network_hash=manifest.network_hash,
        )
        return response.encode()

    def server_probe() -> tuple[bytes, int | None]:
        importance, gradient = net.gradient_from(
            cut, torch.from_numpy(decode_activation(sent, shape=point.shape))
        )
        class_id = int(importance.target[0])
        values = importance.values[0]
        ticket = Ticket.new(
            cut=Cut(cut, CODEC),
            group="all",
            device=None,
            tail=values[~np.isnan(values)].astype(np.float64),
            network_hash=manifest.network_hash,
            class_id=class_id,
        )
        response = ProbeResponse(
            gradient=gradient.numpy(),
            ticket=ticket.seal(secret),
            split_point=cut,
            network_hash=manifest.network_hash,
            class_id=class_id,
        )
        return response.encode()

    with torch.inference_mode():
        sent = send(head(x))
    answer = server_probe()
    jobs = {
        "plain": device_plain,
        "probe": device_probe,
        "tail plain": server_plain,
        "tail probe": server_probe,
    }
    times = interleaved(jobs, rounds=rounds)
    values = tuple(map(float, device_probe()[0]))
    decoded = decode_probe_response(*answer, point.shape)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db") as store:
        store.put_network(manifest, measured)

        def report() -> ProbeReport:
            ticket = decode_probe_response(*server_probe(), point.shape).ticket
            return ProbeReport(
                ticket=ticket,
                values=values,
                network_hash=decoded.network_hash,
                class_id=decoded.class_id,
            )

        ready = iter([_parsed(report()) for _ in range(rounds + 1)])
        taken = interleaved(
            {
                "take": lambda: take_report(
                    store, TokenVerifier(secret), next(ready), per_hour=10**6
                )
            },
            rounds=rounds,
        )
    plain = len(TailRequest(cut=Cut(cut, CODEC), tensor=sent).encode()[0])
    probe = plain + len(answer[0]) + len(report().encode())
    return [
        against(f"{cut}: device", times, "probe", "plain", expected="<= 6"),
        against(f"{cut}: server", times, "tail probe", "tail plain", expected="<= 4"),
        row(f"{cut}: endpoint, check and store", float(np.median(taken["take"])), "ms"),
        row(
            f"{cut}: bytes of a probe",
            probe,
            "bytes",
            rival="plain",
            rival_value=plain,
            ratio=probe / plain,
        ),
    ]


def _parsed(report: ProbeReport) -> object:
    import json

    return json.loads(report.encode())["probe"]
