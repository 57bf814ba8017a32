"""What traffic leaves in the store equals what can be computed offline from the same requests."""

from __future__ import annotations

import numpy as np
import requests
import torch
from toys.live_server import Live
from toys.polling import until
from toys.serving import head_of, tensor_request

from isplit_plugin.schema import Cut
from isplit_plugin.traffic import Store
from isplit_plugin.wire import TailRequest


def _counters(live: Live, model: str) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {live.server.management_token()}"}
    url = f"{live.server.management_url}/models/{model}?customized=true"
    answer = requests.get(url, headers=headers, timeout=30).json()[0]
    return dict(answer["customizedMetadata"]["statistics"])


def _all_computed(live: Live, model: str) -> dict[str, float]:
    """The counters once nothing waits any more."""

    def idle() -> bool:
        counters = _counters(live, model)
        return not any(counters[name] for name in ("sampler_queued", "queued", "pending"))

    until(idle)
    return _counters(live, model)


def test_importance_in_the_store_is_that_of_the_requests(live: Live) -> None:
    model, net = live.resnet, live.resnet.net
    hashed = model.manifest.network_hash
    _all_computed(live, "resnet18")
    with Store(live.store_url) as store:
        before = _means(store, hashed, model.profile.mean0)
    torch.manual_seed(21)
    x = torch.randn(12, 3, 64, 64)
    decoded = []
    fp32_bytes = 0
    for i in range(12):
        codec = ("fp32", "uint8+zstd")[i % 2]
        request = tensor_request(
            head_of(net, "layer2", x[i : i + 1]),
            "layer2",
            codec,
            network_hash=hashed,
            head_ms=3.0,
            group="lab",
        )
        live.predict("resnet18", request)
        fp32_bytes += len(request.encode()[0]) if codec == "fp32" else 0
        shaped = TailRequest(cut=Cut("layer2", codec), tensor=request.tensor, shape=(128, 8, 8))
        decoded.append(torch.from_numpy(shaped.activation().copy()))
    offline = net.importance_from("layer2", torch.cat(decoded))
    counters = _all_computed(live, "resnet18")
    assert counters["sampler_failed"] == counters["invalid"] == 0
    with Store(live.store_url) as store:
        after = _means(store, hashed, model.profile.mean0)
        view = store.view(hashed, "lab")
    first = list(offline.split_points).index("layer2")
    for class_id in np.unique(offline.target):
        values = offline.values[offline.target == class_id]
        count, total = after.get(int(class_id), (0.0, 0.0))
        count0, total0 = before.get(int(class_id), (0.0, np.zeros(len(offline.split_points))))
        assert count - count0 == len(values)
        mean = (total - total0) / len(values)
        np.testing.assert_allclose(mean[first:], values.mean(axis=0)[first:], rtol=1e-3, atol=1e-7)
    served = {str(r.cut): r for r in view.served}
    assert served["layer2:fp32"].requests == served["layer2:uint8+zstd"].requests == 6
    assert fp32_bytes > 6 * 128 * 8 * 8 * 4
    assert served["layer2:fp32"].bytes == fp32_bytes
    assert served["layer2:fp32"].head.mean_ms == 3.0


def _means(
    store: Store, network_hash: str, mean0: np.ndarray
) -> dict[int, tuple[float, np.ndarray]]:
    """class -> (requests, sum of importance (P,)) of split traffic; decay over seconds is far below
    the tolerance.
    """
    found: dict[int, tuple[float, np.ndarray]] = {}
    for rows in store.view(network_hash).importance:
        if rows.source != "tail":
            continue
        for row, class_id in enumerate(rows.class_ids):
            weight = np.maximum(rows.weight[row], 1e-300)
            mean = np.where(rows.count[row] > 0, mean0 + rows.sum1[row] / weight, 0.0)
            found[int(class_id)] = (float(rows.count[row].max()), mean * rows.count[row])
    return found


def test_the_endpoint_answers_from_profile_and_traffic(live: Live) -> None:
    path = "predictions/isplit/1.0/recommendations/toy"
    until(lambda: live.get(path).status_code == 200)
    advice = live.get(path).json()
    assert advice["model"] == "toy"
    assert advice["network_hash"] == live.toy.manifest.network_hash
    assert {c["split_point"] for c in advice["cuts"]} >= {"input", "relu1", "relu2", "output"}


def test_metrics_tell_what_was_served(live: Live) -> None:
    def metrics() -> str:
        return requests.get(f"{live.server.metrics_url}/metrics", timeout=60).text

    def value() -> float:
        text = metrics()
        # A cut of this test alone: what others sent may be counted a second later.
        wanted = 'isplit_requests_total{ModelName="toy",ModelVersion="1.0",SplitPoint="relu2",Codec="fp16+zstd",'
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(wanted)
        )

    before = value()
    values = head_of(live.toy.net, "relu2", torch.zeros(1, 3, 16, 16))
    live.predict(
        "toy",
        tensor_request(values, "relu2", "fp16+zstd", network_hash=live.toy.manifest.network_hash),
    )
    live.post("predictions/toy", b"broken")
    # The frontend reads the worker's output on its own time.
    until(lambda: value() == before + 1)
    of_model = '{ModelName="toy",ModelVersion="1.0",'
    until(lambda: f'isplit_errors_total{of_model}Code="malformed_request",' in metrics())
    until(lambda: f'isplit_tail_milliseconds_total{of_model}SplitPoint="relu2",' in metrics())
    assert "ts_inference_requests_total" in metrics()
