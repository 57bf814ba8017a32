"""Bottlenecks: their files, their parts, what is measured of them, and runs that go on where they stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toys.bottleneck import PRE, toy_model, toy_network

from isplit_plugin.bottleneck import (
    SUFFIX,
    AutoencoderConfig,
    Bottleneck,
    Budget,
    Photos,
    bottleneck_point,
    decoder_tail,
    encoder_head,
    export_encoder,
    load_bottleneck,
    measure,
    train_bottlenecks,
)
from isplit_plugin.errors import (
    ArtifactError,
    DataError,
    NetworkMismatchError,
    SplitPointError,
    UnknownCodecError,
)
from isplit_plugin.network import capture
from isplit_plugin.wire import decode_activation, encode_activation


@pytest.fixture(params=[0, 1], ids=["plain", "whole"])
def bottleneck(request: pytest.FixtureRequest, bottlenecks: list[Bottleneck]) -> Bottleneck:
    return bottlenecks[request.param]


def test_a_file_gives_the_same_bottleneck_back(
    bottleneck: Bottleneck, test_photos: Photos, tmp_path: Path
) -> None:
    net = toy_network()
    path = bottleneck.save(tmp_path / f"v{SUFFIX}")
    again = load_bottleneck(path, net, PRE)
    assert again.describe() == bottleneck.describe()
    assert again.deployed_name == bottleneck.deployed_name
    x = test_photos.tensor(range(5))
    with torch.inference_mode():
        code = encoder_head(net, bottleneck)(x)
        assert torch.equal(encoder_head(net, again)(x), code)
        assert torch.equal(decoder_tail(net, again)(code), decoder_tail(net, bottleneck)(code))
    assert code.shape == (5, *bottleneck.code_shape)


def test_parts_of_a_plain_bottleneck_are_the_networks_own(
    bottlenecks: list[Bottleneck], test_photos: Photos
) -> None:
    net, bottleneck = toy_network(), bottlenecks[0]
    head, tail = net.bisect("0")
    x = test_photos.tensor(range(5))
    with torch.inference_mode():
        code = bottleneck.encoder(head(x))
        assert torch.equal(encoder_head(net, bottleneck)(x), code)
        assert torch.equal(decoder_tail(net, bottleneck)(code), tail(bottleneck.decoder(code)))


@pytest.mark.parametrize("codec", ["uint8", "q2", "q2+rle", "q2+zstd"])
def test_measures_by_an_independent_loop(
    bottlenecks: list[Bottleneck], test_photos: Photos, codec: str
) -> None:
    net, bottleneck = toy_network(), bottlenecks[0]
    # All in one call: those that share their quantisation, but clip differently, must not share their answers.
    found = measure(net, bottleneck, test_photos, codecs=["uint8", "q2", "q2+rle", "q2+zstd"])
    mine = next(m for m in found if m.codec == codec)
    head, tail = net.bisect("0")
    sizes = []
    seen, agree, labelled, correct = (np.zeros(3, dtype=int) for _ in range(4))
    with torch.inference_mode():
        for row in range(len(test_photos)):
            x = test_photos.tensor([row])
            tensor = encode_activation(bottleneck.encoder(head(x)).numpy(), codec)
            decoded = torch.from_numpy(decode_activation(tensor, shape=bottleneck.code_shape))
            answer, full = (
                int(tail(bottleneck.decoder(decoded)).argmax()),
                int(net.model(x).argmax()),
            )
            label = int(test_photos.labels[row])
            sizes.append(tensor.nbytes)
            seen[full] += 1
            agree[full] += answer == full
            labelled[label] += 1
            correct[label] += answer == label
    assert mine.nbytes == pytest.approx(np.mean(sizes))
    for name, expected in (
        ("seen", seen),
        ("agree", agree),
        ("labelled", labelled),
        ("correct", correct),
    ):
        assert getattr(mine, name).tolist() == expected.tolist(), name
    assert mine.accuracy == pytest.approx(correct.sum() / 36)
    assert mine.agreement == pytest.approx(agree.sum() / 36)


def test_unknown_codecs_are_refused(bottlenecks: list[Bottleneck], test_photos: Photos) -> None:
    with pytest.raises(UnknownCodecError, match="q99"):
        measure(toy_network(), bottlenecks[0], test_photos, codecs=["q99"])


def test_other_networks_are_refused(bottleneck: Bottleneck, tmp_path: Path) -> None:
    path = bottleneck.save(tmp_path / f"v{SUFFIX}")
    other = capture(toy_model(seed=9), torch.zeros(1, *PRE.shape))
    with pytest.raises(NetworkMismatchError, match=str(path)):
        load_bottleneck(path, other, PRE)
    narrow = dataclasses.replace(PRE, crop=(12, 12))
    small = capture(toy_model(), torch.zeros(1, *narrow.shape))
    with pytest.raises(NetworkMismatchError, match="of shape"):
        load_bottleneck(path, small)


def test_broken_files_are_typed_errors(bottlenecks: list[Bottleneck], tmp_path: Path) -> None:
    net = toy_network()
    path = bottlenecks[0].save(tmp_path / f"v{SUFFIX}")
    with pytest.raises(ArtifactError, match="no such file"):
        load_bottleneck(tmp_path / "none", net)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="not a file of this kind"):
        load_bottleneck(tmp_path / "text", net)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["isplit_bottleneck"])

    def written(change: dict, tensors: dict = tensors) -> Path:
        save_file(tensors, tmp_path / "bad", {"isplit_bottleneck": json.dumps(described | change)})
        return tmp_path / "bad"

    with pytest.raises(ArtifactError, match="format 1 or older"):
        load_bottleneck(written({"format": 2}), net)
    with pytest.raises(ArtifactError, match="not a bottleneck"):
        load_bottleneck(written({"measures": [{"codec": "uint8"}]}), net)
    with pytest.raises(ArtifactError, match="do not fit"):
        load_bottleneck(written({"width": 2}), net)
    with pytest.raises(SplitPointError, match="stride"):
        load_bottleneck(written({"stride": 3}), net)
    fewer = {n: t for n, t in tensors.items() if not n.endswith("weight")}
    with pytest.raises(ArtifactError, match="do not fit"):
        load_bottleneck(written({}, fewer), net)


def test_the_deployed_name_follows_the_weights(bottleneck: Bottleneck) -> None:
    assert bottleneck.deployed_name.startswith(f"{bottleneck.name}-")
    state = {n: t.clone() for n, t in bottleneck.autoencoder.state_dict().items()}
    other = dataclasses.replace(bottleneck)
    assert other.deployed_name == bottleneck.deployed_name
    try:
        with torch.no_grad():
            next(bottleneck.autoencoder.parameters()).add_(1e-6)
        assert dataclasses.replace(bottleneck).deployed_name != bottleneck.deployed_name
    finally:
        bottleneck.autoencoder.load_state_dict(state)


def test_place(bottlenecks: list[Bottleneck]) -> None:
    net = toy_network()
    place = bottleneck_point(net, bottlenecks[0])
    point = net.split_point("0")
    assert place.of == "0"
    assert place.point.shape == bottlenecks[0].code_shape == (2, 4, 5)
    assert place.point.nbytes == 4 * 40
    # (8 -> 1 at 8 x 9, 1 -> 2 at 4 x 5), 9 multiply-accumulates each
    assert place.point.macs.head == point.macs.head + 9 * (8 * 72 + 2 * 20)
    assert place.point.macs.tail == point.macs.tail + 9 * (8 * 72 + 2 * 20)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_exported_encoders_compute_the_same(
    bottleneck: Bottleneck, test_photos: Photos, tmp_path: Path, kind: str
) -> None:
    net = toy_network()
    export_encoder(net, bottleneck, tmp_path / f"e.{kind}", format=kind)
    x = test_photos.tensor(range(len(test_photos)))
    with torch.inference_mode():
        expected = encoder_head(net, bottleneck)(x)
        if kind == "onnx":
            session = onnxruntime.InferenceSession(tmp_path / "e.onnx")
            found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        else:
            found = torch.export.load(tmp_path / "e.pt2").module()(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        tail = decoder_tail(net, bottleneck)
        assert torch.equal(tail(found).argmax(dim=1), tail(expected).argmax(dim=1))


def run(directory: Path, train_photos: Photos, test_photos: Photos, **options) -> list[Bottleneck]:  # type: ignore[no-untyped-def]
    options = {"budget": Budget(epochs=2, batch_size=16), "codecs": ("uint8",)} | options
    return train_bottlenecks(
        toy_network(),
        ["0", "2"],
        train_photos,
        preprocessing=PRE,
        test=test_photos,
        config=AutoencoderConfig(stride=2, depth=1),
        directory=directory,
        **options,
    )


def test_a_run_over_several_points_goes_on_where_it_stopped(
    train_photos: Photos, test_photos: Photos, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", train_photos, test_photos)
    assert [v.name for v in whole] == ["0~n1s2d1", "2~n2s2d1"]
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == [
        f"0~n1s2d1{SUFFIX}",
        f"2~n2s2d1{SUFFIX}",
    ]
    seen: list[tuple[str, int]] = []

    def stop(name: str, _stage: str, epoch: int, _epochs: int, _line: object) -> None:
        seen.append((name, epoch))
        if seen[-1] == ("2~n2s2d1", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", train_photos, test_photos, progress=stop)
    names = sorted(p.name for p in (tmp_path / "cut").iterdir())
    assert names == [f"0~n1s2d1{SUFFIX}", "2~n2s2d1.checkpoint.safetensors"]
    resumed = run(
        tmp_path / "cut",
        train_photos,
        test_photos,
        progress=lambda n, _s, e, *_: seen.append((n, e)),
    )
    assert seen == [("0~n1s2d1", 1), ("0~n1s2d1", 2), ("2~n2s2d1", 1), ("2~n2s2d1", 2)]
    assert [v.deployed_name for v in resumed] == [v.deployed_name for v in whole]
    # Another budget is another training: nothing old is passed off as its result.
    longer = run(
        tmp_path / "cut", train_photos, test_photos, budget=Budget(epochs=3, batch_size=16)
    )
    assert [len(v.training["history"]) for v in longer] == [3, 3]
    fresh: list[int] = []
    run(
        tmp_path / "whole",
        train_photos,
        test_photos,
        resume=False,
        progress=lambda _n, _s, e, *_: fresh.append(e),
    )
    assert fresh == [1, 2, 1, 2]


def test_what_does_not_fit_is_said_before_anything_is_trained(
    train_photos: Photos, test_photos: Photos, tmp_path: Path
) -> None:
    with pytest.raises(SplitPointError, match="'4'"):
        train_bottlenecks(
            toy_network(),
            ["0", "4"],
            train_photos,
            preprocessing=PRE,
            test=test_photos,
            directory=tmp_path / "d",
        )
    assert not (tmp_path / "d").exists()
    with pytest.raises(DataError, match="no split points"):
        train_bottlenecks(toy_network(), [], train_photos, preprocessing=PRE, test=test_photos)
