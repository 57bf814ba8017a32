"""Probes from the device to the store: whole curves, equal to the whole network's, and never a
photo.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.polling import until
from toys.probing import Bridge, client_of
from toys.serving import PREPROCESSING, Ask, ask_of, head_of, tensor_request, toy_photos

from isplit_plugin import image
from isplit_plugin.client.transport import Reply
from isplit_plugin.device_tokens import issue, new_secret, read_secret
from isplit_plugin.errors import (
    BundleError,
    ProbeBudgetError,
    ProbeError,
    ProtocolError,
    StoreError,
    TicketError,
)
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.probing import ProbeClient
from isplit_plugin.probing.messages import decode_probe_response
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Prediction
from isplit_plugin.serving.packaging import Built
from isplit_plugin.serving.plausible import curve_limits
from isplit_plugin.traffic import Store
from isplit_plugin.wire import header_length

# The voices of devices are counted by the hour.
pytestmark = pytest.mark.usefixtures("within_an_hour")

POINTS_BEFORE = 1  # conv1 stands before relu1


def _inputs(photos: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([image.preprocess(photo, PREPROCESSING) for photo in photos]))


def _means(url: str, network_hash: str, source: str = "probe") -> dict[int, np.ndarray]:
    """Mean curve by class of one source of whole curves."""
    found = {}
    with Store(url) as store:
        mean0 = store.mean0(network_hash)
        for rows in store.view(network_hash).importance:
            if rows.source == source:
                for class_id, weight, sum1 in zip(
                    rows.class_ids, rows.weight, rows.sum1, strict=True
                ):
                    found[int(class_id)] = mean0 + sum1 / np.maximum(weight, 1e-300)
    return found


def _by_class(values: np.ndarray, classes: np.ndarray) -> dict[int, np.ndarray]:
    return {int(c): values[classes == c].mean(axis=0) for c in np.unique(classes)}


@pytest.mark.parametrize(("gradient", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3)])
def test_joined_curves_are_the_whole_networks(
    served: Bridge,
    built: Built,
    net: CapturedNetwork,
    secret: Path,
    store_url: str,
    *,
    gradient: str,
    tolerance: float,
) -> None:
    photos = toy_photos(8)
    whole = net.importance(_inputs(photos))
    with ProbeClient(
        client_of(served.url, built.bundle, device="d1", secret=secret), gradient=gradient
    ) as device:
        results = [device.probe(photo) for photo in photos]
    assert [r.class_id for r in results] == whole.target.tolist()
    values = np.array([r.values for r in results])
    assert results[0].points == ("conv1",)
    np.testing.assert_allclose(values, whole.values[:, :POINTS_BEFORE], rtol=tolerance, atol=1e-9)
    found, expected = (
        _means(store_url, built.manifest.network_hash),
        _by_class(whole.values, whole.target),
    )
    assert found.keys() == expected.keys()
    for class_id, curve in expected.items():
        np.testing.assert_allclose(found[class_id], curve, rtol=tolerance, atol=1e-9)


def test_no_photo_travels_and_nothing_is_counted_as_a_request(
    served: Bridge, built: Built, secret: Path, store_url: str
) -> None:
    (photo,) = toy_photos(1)
    files = {}
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        image.load(photo).save(buffer, kind)
        files[kind] = buffer.getvalue()
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        sent = device.probe(files["PNG"])
    assert [path for path, _ in served.bodies] == ["/predictions/toy/1.0", "/predictions/isplit"]
    assert sent.bytes_sent == sum(len(body) for _, body in served.bodies)
    x = image.preprocess(photo, PREPROCESSING)
    forms = [photo, np.moveaxis(photo, 2, 0), x, x.astype(np.float16), np.moveaxis(x, 0, 2)]
    pieces = [form[:4].tobytes()[:48] for form in forms] + [data[40:72] for data in files.values()]
    for _, body in served.bodies:
        assert not any(piece in body for piece in pieces)
        assert b"\xff\xd8\xff" not in body
        assert b"PNG" not in body
    described = served.tail.handler.describe()
    assert described["served"] == {}
    assert described["probes"] == {
        "on": True,
        "split_points": ["relu1"],
        "answered": 1,
        "refused": 0,
    }
    with Store(store_url) as store:
        view = store.view(built.manifest.network_hash)
    assert view.served == ()
    assert not list(view.outcomes)


def test_refusals_say_why(served: Bridge, built: Built, secret: Path) -> None:
    (photo,) = toy_photos(1)
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        with pytest.raises(ProbeError, match="'relu2' the network is linear"):
            device.probe(photo, "relu2")
        for end in ("input", "output"):
            with pytest.raises(ProbeError, match="expected a split point for a probe"):
                device.probe(photo, end)
    assert served.tail.handler.describe()["errors"] == {"probe_refused": 1}
    onnx = client_of(served.url, built.bundle, runtime="onnxruntime")
    with pytest.raises(BundleError, match="torch"):
        ProbeClient(onnx)
    onnx.close()


def test_off_by_default_and_never_without_a_secret(
    start: Callable[..., Bridge], built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISPLIT_SECRET_FILE", raising=False)
    (photo,) = toy_photos(1)
    without = start()
    with ProbeClient(client_of(without.url, built.bundle)) as device:
        with pytest.raises(ProbeError, match="secret"):
            device.probe(photo)
        # A token that nobody can verify is neither believed nor complained about.
        secret = new_secret(tmp_path / "elsewhere")
        with client_of(without.url, built.bundle, device="d1", secret=secret) as other:
            prediction = other.predict(photo)
        assert (prediction.device, prediction.probe_rate) == ("", 0.0)


def test_off(secret: Path, start: Callable[..., Bridge], built: Built) -> None:
    off = start(probes={"enabled": False})
    (photo,) = toy_photos(1)
    with ProbeClient(client_of(off.url, built.bundle, device="d1", secret=secret)) as device:
        with pytest.raises(ProbeError, match="probes are off"):
            device.probe(photo)
        assert device.predict(photo).probe_rate == 0.0
        assert device.maybe_probe() is None


def test_tokens_that_do_not_hold_cost_no_prediction(
    served: Bridge, built: Built, secret: Path, tmp_path: Path
) -> None:
    (photo,) = toy_photos(1)
    other = read_secret(new_secret(tmp_path / "other"))
    mine = read_secret(secret)
    tokens = {
        issue(mine, "d1", days=1): "ok",
        issue(other, "d1", days=1): "invalid: forged",
        issue(mine, "d1", days=1, clock=lambda: 0.0): "invalid: expired",
        "hello": "invalid: malformed",
    }
    answers: list[Prediction] = []
    for token, status in tokens.items():
        with client_of(served.url, built.bundle) as device:
            device._exchange._device_token = token
            answers.append(device.predict(photo))
        assert answers[-1].device == status
    assert len({a.class_id for a in answers}) == 1
    statistics = served.tail.handler.describe()["statistics"]
    assert statistics["observed"] + statistics["queued"] == 4


def test_budgets_of_devices(secret: Path, start: Callable[..., Bridge], built: Built) -> None:
    served = start(probes={"per_hour": 2})
    (photo,) = toy_photos(1)
    for id_ in ("d1", "d2", None):
        with ProbeClient(client_of(served.url, built.bundle, device=id_, secret=secret)) as device:
            device.probe(photo)
            device.probe(photo)
            with pytest.raises(ProbeBudgetError, match="at most 2 probes an hour") as caught:
                device.probe(photo)
            assert 0 < caught.value.details["retry_after_s"] <= 1800
    # All without a token are one, whatever they call themselves.
    with (
        ProbeClient(client_of(served.url, built.bundle, group="somebody else")) as device,
        pytest.raises(ProbeBudgetError, match="without a token"),
    ):
        device.probe(photo)


def test_budget_of_the_server(secret: Path, start: Callable[..., Bridge], built: Built) -> None:
    served = start(probes={"cpu_budget": 1e-9})
    (photo,) = toy_photos(1)
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        device.probe(photo)  # the first one runs into debt
        with pytest.raises(ProbeBudgetError, match="CPU time"):
            device.probe(photo)
        assert device.predict(photo).probe_rate == 0.0


def _until_advised(device: ProbeClient, photo: np.ndarray) -> Prediction:
    """The tail reads the store in a thread of its own."""
    predictions: list[Prediction] = []

    def advised() -> bool:
        predictions.append(device.predict(photo))
        return bool(predictions[-1].probe_rate)

    until(advised)
    return predictions[-1]


def test_the_server_advises_and_the_client_obeys(
    served: Bridge, built: Built, secret: Path
) -> None:
    (photo,) = toy_photos(1)
    draws = iter([0.999, 0.0])
    client = client_of(served.url, built.bundle, device="d1", secret=secret)
    with ProbeClient(client, draw=lambda: next(draws)) as device:
        assert device.maybe_probe() is None  # nothing to follow
        assert _until_advised(device, photo).probe_rate == 1.0  # no whole curve is known yet
        assert device.maybe_probe() is not None
        assert device.maybe_probe() is None  # one for each prediction
        device._last = (photo, device.predict(photo))
        assert device.maybe_probe() is not None
    assert served.tail.handler.describe()["probes"]["answered"] == 2


def test_a_refusal_is_obeyed_for_as_long_as_it_says(
    secret: Path, start: Callable[..., Bridge], built: Built
) -> None:
    served = start(probes={"per_hour": 1})
    (photo,) = toy_photos(1)
    now = [0.0]
    client = client_of(served.url, built.bundle, device="d1", secret=secret)
    with ProbeClient(client, draw=lambda: 0.0, clock=lambda: now[0]) as device:
        advised = _until_advised(device, photo)
        assert device.maybe_probe() is not None
        # Where the budget is spent the answer advises nothing; a device that holds an older advice
        # is refused.
        assert device.predict(photo).probe_rate == 0.0
        posted = len(served.bodies)
        for expected, later in ((1, 1000.0), (1, 3000.0), (2, 0.0)):
            device._last = (photo, advised)
            assert device.maybe_probe() is None
            assert len(served.bodies) - posted == expected
            now[0] += later


def test_a_ticket_whose_answer_was_lost_counts_once(
    served: Bridge, built: Built, secret: Path, store_url: str
) -> None:
    (photo,) = toy_photos(1)
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        post = device.client.transport.post

        def post_reports_twice(path: str, *args: Any, **options: Any) -> Any:
            if path == "/predictions/isplit":
                post(path, *args, **options)
            return post(path, *args, **options)

        device.client.transport.post = post_reports_twice  # type: ignore[method-assign]
        assert device.probe(photo).class_id >= 0
    with Store(store_url) as store:
        (rows,) = store.view(built.manifest.network_hash).importance
    assert rows.count.tolist() == [[1.0] * 6]
    with (
        client_of(served.url, built.bundle) as other,
        pytest.raises(TicketError, match="used before"),
    ):
        other.transport.post(
            "/predictions/isplit", served.bodies[-1][1], {"Content-Type": "application/json"}
        )


def test_one_liar_among_ten(served: Bridge, built: Built, secret: Path, store_url: str) -> None:
    """A liar moves the mean by its share, however often it reports; unsigned, ten invented names
    are one.
    """
    (photo,) = toy_photos(1)
    lie = 3.0

    def probes(
        device_id: str | None, *, group: str | None = None, factor: float = 1.0, times: int = 1
    ) -> None:
        with ProbeClient(
            client_of(served.url, built.bundle, device=device_id, secret=secret, group=group)
        ) as device:
            inside = device._importance("relu1")
            run = inside.run

            def lying(x: torch.Tensor) -> object:
                forward = run(x)
                finish = forward.finish
                forward.finish = lambda gradient: finish(gradient) * factor  # type: ignore[method-assign]
                return forward

            inside.run = lying  # type: ignore[method-assign,assignment]
            for _ in range(times):
                device.probe(photo)

    for number in range(9):
        probes(f"honest{number}")
    ((class_id, honest),) = _means(store_url, built.manifest.network_hash).items()
    probes("liar", factor=lie, times=20)
    moved = _means(store_url, built.manifest.network_hash)[class_id]
    np.testing.assert_allclose(moved[0], honest[0] * (9 + lie) / 10, rtol=1e-4)
    np.testing.assert_allclose(moved[1:], honest[1:], rtol=1e-4, atol=1e-12)
    for number in range(10):
        probes(None, group=f"invented{number}", factor=lie)
    with Store(store_url) as store:
        (rows,) = store.view(built.manifest.network_hash).importance
    assert rows.count[0, 0] == 11  # ten devices, and everybody without a token
    again = _means(store_url, built.manifest.network_hash)[class_id]
    np.testing.assert_allclose(again[0], honest[0] * (9 + 2 * lie) / 11, rtol=1e-4)


def test_a_store_that_is_away_loses_the_probe_alone(
    served: Bridge, built: Built, secret: Path, store_url: str
) -> None:
    (photo,) = toy_photos(1)
    path = Path(store_url.removeprefix("sqlite:///"))
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        device.probe(photo)
        path.rename(path.with_suffix(".away"))
        with pytest.raises(StoreError):
            device.probe(photo)
        path.with_suffix(".away").rename(path)
        device.probe(photo)


def _ask(
    built: Built, net: CapturedNetwork, x: torch.Tensor, point: str = "relu1", **fields: Any
) -> Ask:
    values = head_of(net, point, x)
    return ask_of(tensor_request(values, point, network_hash=built.manifest.network_hash, **fields))


def test_a_batch_of_probes_and_predictions(
    served: Bridge, built: Built, net: CapturedNetwork
) -> None:
    """What is asked for together is answered one by one: a refused probe costs its neighbours
    nothing.
    """
    torch.manual_seed(5)
    x = torch.randn(2, 3, 16, 16)
    replies = served.tail(
        _ask(built, net, x[:1], scores=True),
        _ask(built, net, x[:1], probe=True, gradient="fp32"),
        _ask(built, net, x[:1], "relu2", probe=True),
        _ask(built, net, x, probe=True),
    )
    assert [r.status for r in replies] == [200, 200, 409, 409]
    assert "linear" in replies[2].json["error"]
    assert "one item, got 2" in replies[3].json["error"]
    length = header_length(replies[1].headers)
    answer = decode_probe_response(replies[1].body, length, (4, 8, 8))
    expected, gradient = net.gradient_from("relu1", torch.from_numpy(head_of(net, "relu1", x[:1])))
    assert answer.class_id == expected.target[0]
    np.testing.assert_allclose(answer.gradient, gradient.numpy(), rtol=1e-6)
    with torch.inference_mode():
        whole = net.model(x[:1]).numpy()
    assert replies[0].json["outputs"][0]["data"][0] == int(whole.argmax())
    assert served.tail.handler.describe()["served"] == {"relu1": 1}


def test_an_activation_that_nobody_has_moves_nothing(
    served: Bridge, built: Built, secret: Path, store_url: str
) -> None:
    """The tail's half of the curve is the server's own, and yet only as honest as the activation."""
    (photo,) = toy_photos(1)
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        inside = device._importance("relu1")
        run = inside.run

        def made_up(x: torch.Tensor) -> object:
            forward = run(x)
            forward.activation = forward.activation * 1e6
            return forward

        inside.run = made_up  # type: ignore[method-assign,assignment]
        with pytest.raises(ProbeError, match="expected 0 to"):
            device.probe(photo)
    assert _means(store_url, built.manifest.network_hash) == {}


@pytest.mark.parametrize("where", ["tail", "endpoint"])
@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"accepted": false}', b"[1]"])
def test_answers_that_are_none_of_ours(
    served: Bridge, built: Built, secret: Path, where: str, body: bytes
) -> None:
    (photo,) = toy_photos(1)
    with ProbeClient(client_of(served.url, built.bundle, device="d1", secret=secret)) as device:
        post = device.client.transport.post

        def odd(path: str, sent: bytes, headers: dict[str, str], **options: Any) -> Reply:
            ours = (path == "/predictions/isplit") != (where == "endpoint")
            return post(path, sent, headers, **options) if ours else Reply(body, {})

        device.client.transport.post = odd  # type: ignore[method-assign,assignment]
        with pytest.raises(ProtocolError):
            device.probe(photo)
        if where == "endpoint":
            device._last = photo, replace(device.client.predict(photo), probe_rate=1.0)
            assert device.maybe_probe() is None  # an outage is no error of the prediction's


def test_made_up_activations_of_ordinary_requests_are_bounded_too(
    secret: Path,
    start: Callable[..., Bridge],
    built: Built,
    net: CapturedNetwork,
    request: pytest.FixtureRequest,
) -> None:
    store_url: str = request.getfixturevalue("store_url")
    profile: Profile = request.getfixturevalue("profile")
    served = start(sampling=1.0, cpu_budget=1.0)
    token = issue(read_secret(secret), "d1", days=1)
    torch.manual_seed(6)
    x = torch.rand(1, 3, 16, 16)
    honest = net.importance_from("relu1", torch.from_numpy(head_of(net, "relu1", x)))
    for scale in (1.0, 1e6):
        made_up = tensor_request(
            head_of(net, "relu1", x) * np.float32(scale),
            "relu1",
            network_hash=built.manifest.network_hash,
            device_token=token,
        )
        (reply,) = served.tail(ask_of(made_up))
        assert reply.status == 200
    until(lambda: served.tail.handler.describe()["statistics"]["sampler_computed"] >= 2)
    served.tail.close()
    found = _means(store_url, built.manifest.network_hash, "tail")
    limits = curve_limits(profile)
    assert len(found) <= 2
    assert all(
        (curve[POINTS_BEFORE:] <= limits[POINTS_BEFORE:] * (1 + 1e-9)).all()
        for curve in found.values()
    )
    assert any(
        (curve[POINTS_BEFORE:] > 2 * honest.values[0, POINTS_BEFORE:]).any()
        for curve in found.values()
    )


def test_the_group_that_the_operator_signed_outranks_the_one_that_the_device_names(
    served: Bridge, built: Built, secret: Path, store_url: str
) -> None:
    (photo,) = toy_photos(1)
    with client_of(served.url, built.bundle, group="window") as device:
        device._exchange._device_token = issue(read_secret(secret), "d1", days=1, group="door")
        device.predict(photo)
        ProbeClient(device).probe(photo)
    served.tail.close()
    with Store(store_url) as store:
        view = store.view(built.manifest.network_hash, "door")
        assert [row.requests for row in view.served] == [1]
        assert [row.source for row in view.importance] == ["probe"]
        assert store.view(built.manifest.network_hash, "window").served == ()
