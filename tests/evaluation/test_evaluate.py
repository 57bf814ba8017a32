"""A whole evaluation of a toy network: what is written down, what is refused, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from toys.bottleneck import CLASSES, PRE, toy_network, toy_pixels, write_photos

from isplit_plugin.bottleneck import AutoencoderConfig, Budget, Photos
from isplit_plugin.errors import DataError, ImageError, UnknownNameError
from isplit_plugin.evaluation import (
    PREDICTORS,
    Context,
    Settings,
    candidates,
    evaluate,
    register,
    render,
    save,
)
from isplit_plugin.evaluation.figures import bytes_figure, prediction_figure
from isplit_plugin.evaluation.predictors import get
from isplit_plugin.evaluation.rivals import image_rivals, scan_bytes
from isplit_plugin.wire import encode_activation

SETTINGS = Settings(
    budget=Budget(epochs=2, batch_size=16),
    seeds=(0, 1),
    calibration=18,
    rival_photos=12,
    repeats=40,
)


@pytest.fixture(scope="module")
def photos() -> tuple[Photos, Photos]:
    rng = np.random.default_rng(0)
    train = Photos([(toy_pixels(i % 3, rng), i % 3) for i in range(60)], PRE, 3)
    test = Photos([(toy_pixels(i % 3, rng), i % 3) for i in range(60)], PRE, 3)
    return train, test


def run(photos: tuple[Photos, Photos], **options: Any) -> dict[str, Any]:
    options = {"name": "toy", "settings": SETTINGS} | options
    return evaluate(
        toy_network(),
        train=photos[0],
        test=photos[1],
        preprocessing=PRE,
        classes=CLASSES,
        **options,
    )


@pytest.fixture(scope="module")
def result(
    photos: tuple[Photos, Photos], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return run(photos, directory=tmp_path_factory.mktemp("work"))


def test_candidates_are_block_outputs_where_the_bottleneck_fits() -> None:
    points, left_out = candidates(toy_network(), AutoencoderConfig())
    assert [p.name for p in points] == ["0", "1", "2"]
    assert set(left_out) == {"3", "4"}
    points, _ = candidates(toy_network(), AutoencoderConfig(), ["1", "0.1"])
    assert [p.name for p in points] == ["0.1", "1"]  # in execution order


def test_the_result(result: dict[str, Any]) -> None:
    assert [p["name"] for p in result["points"]] == ["0", "1", "2"]
    assert {s["name"] for s in result["predictors"]} == set(PREDICTORS)
    assert result["settings"]["calibration_photos"] + result["settings"]["test_photos"] == 60
    for point in result["points"]:
        assert len(point["accuracy_by_seed"]) == 2
        assert point["accuracy"] == pytest.approx(np.mean(point["accuracy_by_seed"]), abs=1e-5)
        by_class = list(point["accuracy_by_class"].values())
        assert point["accuracy"] == pytest.approx(
            np.mean(by_class), abs=1e-5
        )  # classes are balanced
        assert [c["codec"] for c in point["codes"]] == list(SETTINGS.code_codecs)
    depth = next(s for s in result["predictors"] if s["name"] == "depth")
    assert depth["partial"]["value"] is None
    assert [p["predictions"]["depth"] for p in result["points"]] == [0, 1, 2]
    assert [p["predictions"]["size"] for p in result["points"]] == [-8640, -8640, -4608]
    kinds = {r["kind"] for r in result["rivals"]}
    assert kinds == {"jpeg", "jpeg-scan", "png", "device", "codec"}
    json.dumps(result, allow_nan=False)


def test_it_is_the_same_again_from_what_was_kept(
    photos: tuple[Photos, Photos], tmp_path: Path
) -> None:
    lines: list[str] = []
    first = run(photos, directory=tmp_path, progress=lines.append)
    trained = [line for line in lines if "% agree" in line]
    assert len(trained) == 6
    lines.clear()
    again = run(photos, directory=tmp_path, progress=lines.append)
    assert not [line for line in lines if "% agree" in line]  # nothing was trained again

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k != "seconds"}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    assert timeless(first) == timeless(again)


def test_tables_and_figures(result: dict[str, Any], tmp_path: Path) -> None:
    text = render(result)
    for name in ("kl-linear", "jpeg", "bottleneck", "Youden"):
        assert name in text
    for figure in (
        prediction_figure([result, result], tmp_path / "p.svg"),
        bytes_figure([result], tmp_path / "b.svg"),
    ):
        first = figure.read_bytes()
        assert b"<svg" in first
    assert (
        prediction_figure([result, result], tmp_path / "p.svg").read_bytes()
        == (tmp_path / "p.svg").read_bytes()
    )
    saved = save(result, tmp_path / "deep" / "r.json")
    assert json.loads(saved.read_text()) == json.loads(json.dumps(result))


def test_predictors_by_independent_means(photos: tuple[Photos, Photos]) -> None:
    net, test = toy_network(), photos[1]
    points, _ = candidates(net, AutoencoderConfig())
    rows = np.arange(10)
    context = Context(net, tuple(points), test, rows, batch_size=4)
    x = test.tensor(rows)
    columns = [[p.name for p in net.split_points].index(p.name) for p in points]
    np.testing.assert_allclose(
        get("cui")(context), net.importance(x).values[:, columns], rtol=1e-4, atol=1e-8
    )
    labels = test.labels[rows]
    np.testing.assert_allclose(
        get("cui-true")(context), net.importance(x, labels).values[:, columns], rtol=1e-4, atol=1e-8
    )
    found = get("kl-pool2")(context)
    head, tail = net.bisect("1")
    with torch.inference_mode():
        maps = head(x)
        small = torch.nn.functional.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)
        lossy = torch.nn.functional.interpolate(small, scale_factor=2, mode="nearest")[
            :, :, :15, :18
        ]
        p, q = net.model(x).softmax(1), tail(lossy).softmax(1)
    np.testing.assert_allclose(
        found[:, 1], -(p * (p / q).log()).sum(1).numpy(), rtol=1e-3, atol=1e-5
    )
    picked = torch.arange(10), torch.from_numpy(labels)
    np.testing.assert_allclose(
        get("drop-pool2")(context)[:, 1],
        (q[picked].log() - p[picked].log()).numpy(),
        rtol=1e-3,
        atol=1e-5,
    )
    assert (
        get("agree-pool2")(context)[:, 1].tolist() == (p.argmax(1) == q.argmax(1)).double().tolist()
    )


def test_a_new_predictor_is_a_function_and_a_name(
    photos: tuple[Photos, Photos], tmp_path: Path
) -> None:
    register("reversed", lambda context: -np.arange(len(context.points), dtype=float))
    try:
        settings = Settings(
            budget=Budget(epochs=1),
            seeds=(0,),
            calibration=9,
            rival_photos=6,
            repeats=10,
            predictors=("reversed",),
        )
        found = run(photos, settings=settings)
        assert [s["name"] for s in found["predictors"]] == ["reversed"]
    finally:
        PREDICTORS.pop("reversed")
    with pytest.raises(UnknownNameError, match="reversed"):
        get("reversed")


def test_what_cannot_be_evaluated(photos: tuple[Photos, Photos]) -> None:
    train, _ = photos
    rng = np.random.default_rng(0)
    unlabelled = Photos([(toy_pixels(0, rng), None) for _ in range(12)], PRE, 3)
    with pytest.raises(DataError, match="labelled"):
        run((train, unlabelled))
    one_each = Photos([(toy_pixels(i % 3, rng), i % 3) for i in range(3)], PRE, 3)
    with pytest.raises(DataError, match="labelled"):
        run((train, one_each))
    lonely = Photos(
        [(toy_pixels(0, rng), 0) for _ in range(12)] + [(toy_pixels(1, rng), 1)], PRE, 3
    )
    with pytest.raises(DataError, match="two labelled photos of every class"):
        run((train, lonely))
    with pytest.raises(DataError, match="at least 3 candidate"):
        run(photos, split_points=["0", "1"])


def test_rivals_by_an_independent_loop(photos: tuple[Photos, Photos]) -> None:
    net, test = toy_network(), photos[1]
    rows = np.arange(12)
    top = net.model(test.tensor(rows)).argmax(1).numpy()
    found = {(r.kind, r.detail): r for r in image_rivals(net, test, rows, top, qualities=(10,))}
    assert found["png", "lossless"].agreement == 1
    assert found["device", "nothing sent"].nbytes == 0
    accuracy = float((top == test.labels[rows]).mean())
    assert found["device", "nothing sent"].accuracy == accuracy
    jpeg, scan = found["jpeg", "quality 10"], found["jpeg-scan", "quality 10"]
    assert 0 < scan.nbytes < jpeg.nbytes
    assert (scan.accuracy, scan.agreement) == (jpeg.accuracy, jpeg.agreement)


def test_scan_bytes() -> None:
    import io

    small, large = io.BytesIO(), io.BytesIO()
    rng = np.random.default_rng(0)
    PIL.Image.new("L", (16, 16)).save(small, "JPEG")
    PIL.Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(large, "JPEG")
    header = small.getvalue().rindex(b"\xff\xda")
    assert (
        scan_bytes(small.getvalue()) == len(small.getvalue()) - header - 10
    )  # 2 + 8: one component's scan header
    assert scan_bytes(large.getvalue()) > 1000
    with pytest.raises(ImageError):
        scan_bytes(b"\xff\xd8no jpeg")


def test_the_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from isplit_plugin.cli import main

    train = write_photos(tmp_path / "train", 12)
    held = write_photos(tmp_path / "held", 8, seed=1)
    (train / "red" / "broken.png").write_bytes(b"no image")
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(CLASSES))
    network = ["--network", "toys.bottleneck:loaded", "--classes", str(classes)]
    out = tmp_path / "bottlenecks"
    arguments = [
        "bottleneck",
        "train",
        *network,
        "--split",
        "0",
        "--data",
        str(train),
        "-o",
        str(out),
    ]
    assert main([*arguments, "--epochs", "1", "--codecs", "uint8,q4+rle"]) == 0
    printed = capsys.readouterr()
    assert "skipped 1 unreadable" in printed.err
    assert "broken.png" in printed.err
    assert "0~n1s4d2" in printed.out
    [file] = out.iterdir()
    assert file.name == "0~n1s4d2.bottleneck.safetensors"
    assert main([*arguments[:-4], "--data", str(tmp_path / "none"), "-o", str(out)]) == 3
    assert main([*arguments, "--stride", "3"]) == 3
    assert "power of two" in capsys.readouterr().err
    name = tmp_path / "result"
    arguments = [
        "evaluate",
        *network,
        "--train",
        str(train),
        "--data",
        str(held),
        "-o",
        str(name),
        "--epochs",
        "1",
    ]
    arguments += ["--seeds", "1", "--calibration", "6", "--rival-photos", "6", "--bootstrap", "20"]
    assert main([*arguments, "--predictors", "depth,size,cui,kl-pool2"]) == 0
    assert "Spearman" in capsys.readouterr().out
    written = sorted(p.name for p in tmp_path.glob("result*") if p.is_file())
    assert written == ["result-bytes.svg", "result-prediction.svg", "result.json", "result.md"]
    assert main([*arguments, "--predictors", "magic"]) == 3


def test_codecs_of_the_tables_exist() -> None:
    from isplit_plugin.evaluation.rivals import TRAINING_FREE

    for codec in (*SETTINGS.code_codecs, *TRAINING_FREE):
        assert encode_activation(np.ones((1, 4, 2, 2), np.float32), codec).nbytes > 0
