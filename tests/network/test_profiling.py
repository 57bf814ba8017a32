from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor, nn
from torch.fx import GraphModule
from toys.processors import NEEDS_CUDA
from toys.rated_codec import QUALITIES, Rated

from isplit_plugin import image as im
from isplit_plugin.advice import is_faithful
from isplit_plugin.errors import (
    CaptureError,
    DataError,
    SplitPointError,
    UnknownCodecError,
    UnknownSplitPointError,
)
from isplit_plugin.network import (
    CapturedNetwork,
    activations,
    capture,
    cpu_threads,
    on_device,
    part_times,
    profile,
)
from isplit_plugin.network.execution import full_precision
from isplit_plugin.photo_codecs import PHOTOS, write_photo
from isplit_plugin.profile import Profile
from isplit_plugin.schema import ON_DEVICE, PHOTO_CODECS, Cut, Preprocessing
from isplit_plugin.wire import (
    CODECS,
    codecs,
    decode_activation,
    encode_activation,
    encode_images,
    request_bytes,
)

PRE = Preprocessing(crop=(12, 12), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ("a", "b", "c", "d")


class Residual(nn.Module):
    """A block without split points inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.layer1 = nn.Sequential(Residual(), Residual())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layer1(self.conv1(x))), 1))


@pytest.fixture(scope="module")
def net() -> CapturedNetwork:
    torch.manual_seed(0)
    return capture(Toy(), torch.zeros(1, 3, 12, 12))


def photos(count: int, seed: int = 0) -> list[PIL.Image.Image]:
    rng = np.random.default_rng(seed)
    return [
        PIL.Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for _ in range(count)
    ]


def run(net: CapturedNetwork, images: Any, **options: Any) -> Profile:
    return profile(
        net,
        images,
        **{"preprocessing": PRE, "classes": CLASSES, "device": "cpu", "threads": 1, **options},
    )


def inputs(images: list[PIL.Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([im.preprocess(image, PRE) for image in images]))


@pytest.fixture(scope="module")
def images() -> list[PIL.Image.Image]:
    return photos(13)


@pytest.fixture(scope="module")
def whole(net: CapturedNetwork, images: list[PIL.Image.Image]) -> Profile:
    """Labels: the first seven images alone, class 1."""
    pairs = [(image, 1 if i < 7 else None) for i, image in enumerate(images)]
    return run(net, pairs, model="toy", batch_size=4)


def test_moments_are_those_of_the_importance_values(
    net: CapturedNetwork, images: list[PIL.Image.Image], whole: Profile
) -> None:
    importance = net.importance(inputs(images))
    values = importance.values.astype(np.float64)
    np.testing.assert_allclose(whole.mean0, values.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(whole.class_ids, np.unique(importance.target))
    assert len(whole.class_ids) > 1  # else the test would not see a wrong row
    assert [p.name for p in whole.split_points] == list(importance.split_points)
    residuals = []
    for row, class_id in enumerate(whole.class_ids):
        part = values[importance.target == class_id]
        assert whole.count[row] == len(part)
        scale = np.abs(values).max(axis=0)
        np.testing.assert_allclose(
            whole.sum1[row], (part - whole.mean0).sum(axis=0), atol=1e-5 * scale.max()
        )
        np.testing.assert_allclose(
            whole.sum2[row], ((part - whole.mean0) ** 2).sum(axis=0), rtol=1e-3, atol=1e-12
        )
        np.testing.assert_allclose(whole.curve([int(class_id)]).mean, part.mean(axis=0), rtol=1e-4)
        residuals.append(part - part.mean(axis=0))
    within = np.concatenate(residuals)
    np.testing.assert_allclose(whole.comoment, within.T @ within, rtol=1e-3, atol=1e-12)
    assert whole.comoment_dof == len(images) - len(whole.class_ids)


def test_agreement_and_bytes_are_those_of_each_image_on_its_own(
    net: CapturedNetwork, images: list[PIL.Image.Image], whole: Profile
) -> None:
    x = inputs(images)
    with torch.inference_mode():
        top = net.model(x).argmax(1)
    rows = np.searchsorted(whole.class_ids, top.numpy())
    points = ("input", "conv1", "layer1.0", "layer1", "pool")
    tensor_cuts = {Cut(point, codec) for point in points for codec in CODECS}
    measured_cuts = {measurement.cut for measurement in whole.measurements}
    assert measured_cuts == tensor_cuts | {
        *(Cut.of("input", coding) for coding in PHOTOS),
        ON_DEVICE,
    }
    for cut in tensor_cuts:
        measurement = whole.measurement(cut)
        assert measurement is not None
        head, tail = net.bisect(cut.split_point)
        agrees, nbytes = [], []
        with torch.inference_mode():
            # In the batches of the profile: another batch size may differ in the last bit.
            parts = [head(x[start : start + 4]) for start in range(0, len(x), 4)]
            for i, activation in enumerate(torch.cat(parts).numpy()):
                tensor = encode_activation(activation[None], cut.codec)
                nbytes.append(request_bytes(cut, tensor))
                array = decode_activation(tensor, shape=activation.shape)
                agrees.append(int(tail(torch.from_numpy(array)).argmax()) == int(top[i]))
        assert measurement.nbytes == pytest.approx(np.mean(nbytes))
        np.testing.assert_array_equal(
            measurement.images, np.bincount(rows, minlength=len(whole.class_ids))
        )
        np.testing.assert_array_equal(
            measurement.agreeing, np.bincount(rows, agrees, minlength=len(whole.class_ids))
        )


@pytest.mark.parametrize("coding", PHOTOS)
def test_photos_are_measured_in_every_form(
    net: CapturedNetwork, images: list[PIL.Image.Image], whole: Profile, coding: str
) -> None:
    cut = Cut.of("input", coding)
    measured = whole.measurement(cut)
    assert measured is not None
    assert cut.quality is not None
    files = [write_photo(im.crop(image, PRE), cut.codec, cut.quality) for image in images]
    sizes = [request_bytes(cut, encode_images([file], coding)) for file in files]
    assert measured.nbytes == pytest.approx(np.mean(sizes))
    with torch.inference_mode():
        decoded = [im.normalize(im.load(f).convert("RGB"), PRE) for f in files]
        again = net.model(torch.from_numpy(np.stack(decoded))).argmax(1)
        top = net.model(inputs(images)).argmax(1)
    assert measured.agreeing.sum() == int((again == top).sum())
    assert measured.images.sum() == len(images)
    assert measured.encode_ms > 0
    assert measured.decode_ms > 0


def test_pillow_images_have_no_file_and_output_sends_nothing(whole: Profile) -> None:
    assert whole.measurement(Cut("input", "file")) is None
    output = whole.measurement(ON_DEVICE)
    assert output is not None
    assert output.nbytes == 0
    np.testing.assert_array_equal(output.agreeing, whole.count)


def test_every_quality_of_a_codec_is_measured(
    net: CapturedNetwork, images: list[PIL.Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(codecs._CODECS, "rated", Rated())
    result = run(net, [(i, None) for i in images], split_points=["conv1"], codecs=["rated"])
    sizes = []
    for quality in QUALITIES:
        measured = result.measurement(Cut("conv1", "rated", quality))
        assert measured is not None
        assert measured.images.sum() == len(images)
        sizes.append(measured.nbytes)
    assert sizes[0] == sizes[1] < sizes[2]  # up to 8 bits in one byte, 12 in two
    one = run(net, [(images[0], None)], split_points=["conv1"], codecs=["rated@3"])
    assert {m.cut for m in one.measurements if m.codec == "rated"} == {
        Cut(point, "rated", 3) for point in ("input", "conv1")
    }
    assert Profile.from_bytes(result.to_bytes()).measurement(Cut("conv1", "rated", 12)) is not None


def test_a_curtailed_profile_has_the_same_verdicts(net: CapturedNetwork) -> None:
    pairs = [(image, None) for image in photos(40)]
    options: dict[str, Any] = {"split_points": ["conv1"], "codecs": ["q2+zstd", "uint8"]}
    whole = run(net, pairs, batch_size=4, **options)
    curtailed = run(net, pairs, batch_size=4, curtail=0.0, **options)
    assert "curtailed" in curtailed.provenance
    assert "curtailed" not in whole.provenance
    assert [m.cut for m in curtailed.measurements] == [m.cut for m in whole.measurements]
    shorter = 0
    for own, all_images in zip(curtailed.measurements, whole.measurements, strict=True):
        assert is_faithful(own, 0.0) == is_faithful(all_images, 0.0)
        if own.images.sum() < all_images.images.sum():
            shorter += 1
            assert not is_faithful(own, 0.0)
        else:
            assert own.agreeing.tolist() == all_images.agreeing.tolist()
    assert shorter
    with pytest.raises(DataError, match="whose number is known"):
        run(net, iter(pairs), curtail=0.01)


def test_a_codec_that_changes_the_class_is_counted_by_class() -> None:
    """Eight bits cannot distinguish scores of 1 and 1.001, and the first class wins the tie."""

    class Close(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flat = nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            return self.flat(self.pool(x)) * 1.0

    captured = capture(Close(), torch.zeros(1, 3, 2, 2))
    pre = Preprocessing(crop=(2, 2))

    def flat(*scores: float) -> np.ndarray:
        return (
            np.ones((3, 2, 2), dtype=np.float32) * np.array(scores, dtype=np.float32)[:, None, None]
        )

    data = [
        (flat(1, 1.001, 0), None),
        (flat(0, 1, 1.001), None),
        (flat(0, 0, 9), None),
        (flat(5, 0, 0), None),
    ]
    result = profile(
        captured, data, preprocessing=pre, classes="abc", split_points=["flat"], device="cpu"
    )
    np.testing.assert_array_equal(result.class_ids, [0, 1, 2])
    lossy = result.measurement(Cut("flat", "uint8"))
    assert lossy is not None
    assert lossy.images.tolist() == [1, 1, 2]
    assert lossy.agreeing.tolist() == [1, 0, 1]
    exact = result.measurement(Cut("flat", "fp32+zstd"))
    assert exact is not None
    assert exact.agreeing.tolist() == [1, 1, 2]


def test_files_are_measured_as_they_are(net: CapturedNetwork, tmp_path: Path) -> None:
    paths = []
    for i, image in enumerate(photos(3)):
        paths.append(tmp_path / f"{i}.png")
        image.resize((40, 30)).save(paths[-1])
    result = run(net, [(path, None) for path in paths], split_points=[], codecs=["fp32"])
    file = result.measurement(Cut("input", "file"))
    assert file is not None
    tensors = [encode_images([path.read_bytes()], "file") for path in paths]
    sizes = [request_bytes(Cut("input", "file"), tensor) for tensor in tensors]
    assert file.nbytes == pytest.approx(np.mean(sizes))
    assert file.agreeing.sum() == file.images.sum() == 3
    jpeg = result.measurement(Cut("input", "jpeg", 90))
    assert jpeg is not None
    assert jpeg.images.sum() == 3


def test_arrays_have_neither_file_nor_jpeg(
    net: CapturedNetwork, images: list[PIL.Image.Image]
) -> None:
    result = run(net, [(x.numpy(), None) for x in inputs(images)], split_points=[], codecs=["fp16"])
    assert {measurement.cut for measurement in result.measurements} == {
        Cut("input", "fp16"),
        ON_DEVICE,
    }


def test_a_mixed_set_counts_each_codec_where_it_applies(
    net: CapturedNetwork, images: list[PIL.Image.Image]
) -> None:
    data = io.BytesIO()
    images[0].save(data, "PNG")
    mixed = [(inputs(images)[2].numpy(), None), (images[1], None), (data.getvalue(), None)]
    result = run(net, mixed, split_points=[], codecs=["fp16"])
    images_of_codec = {m.codec: int(m.images.sum()) for m in result.measurements}
    assert images_of_codec == {**dict.fromkeys(PHOTO_CODECS, 2), "file": 1, "fp16": 3, "none": 3}


def test_target_true_files_images_under_their_label(
    net: CapturedNetwork, images: list[PIL.Image.Image]
) -> None:
    labels = [i % 3 for i in range(len(images))]
    result = run(net, list(zip(images, labels, strict=True)), target="true", split_points=[])
    assert result.target == "true"
    np.testing.assert_array_equal(result.class_ids, [0, 1, 2])
    np.testing.assert_array_equal(result.count, np.bincount(labels))
    values = net.importance(inputs(images), labels).values
    for class_id in range(3):
        np.testing.assert_allclose(
            result.curve([class_id]).mean, values[np.array(labels) == class_id].mean(0), rtol=1e-4
        )


def test_accuracy_is_of_the_labelled(
    net: CapturedNetwork, images: list[PIL.Image.Image], whole: Profile
) -> None:
    with torch.inference_mode():
        top = net.model(inputs(images)).argmax(1)[:7]
    assert whole.accuracy == pytest.approx(float((top == 1).float().mean()))
    assert whole.provenance["labelled"] == "7"
    assert run(net, [(images[0], None)], split_points=[]).accuracy is None


def test_batch_size_does_not_change_the_profile(
    net: CapturedNetwork, images: list[PIL.Image.Image], whole: Profile
) -> None:
    one = run(net, ((image, None) for image in images), batch_size=1)
    np.testing.assert_allclose(one.curve().mean, whole.curve().mean, rtol=1e-4)
    np.testing.assert_array_equal(one.count, whole.count)


def test_profile_survives_its_file(whole: Profile, tmp_path: Path) -> None:
    whole.save(tmp_path / "toy")
    again = Profile.load(tmp_path / "toy")
    assert again.to_bytes() == whole.to_bytes()
    assert (again.model, again.classes, again.preprocessing) == ("toy", CLASSES, PRE)


def test_unreadable_images_are_skipped_counted_and_named(
    net: CapturedNetwork, images: list[PIL.Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    signs = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.float32), PRE.shape)
    dark = np.float32(3.4e38) * signs  # finite, but not after the first layer
    done: list[tuple[int, int | None]] = []
    mixed = [
        (tmp_path / "broken.jpg", 0),
        (images[0], 0),
        (b"", 1),
        (dark, None),
        (images[1], None),
    ]
    result = run(net, mixed, split_points=[], batch_size=2, progress=lambda *at: done.append(at))
    assert result.provenance["images"] == "2"
    assert result.provenance["skipped"] == "3"
    for part in ("broken.jpg", "number 2", "number 3"):
        assert part in result.provenance["skipped_names"]
    assert "no bytes" in result.provenance["skipped_why"]
    assert int(result.count.sum()) == 2
    assert done[-1] == (5, 5)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, DataError, "no usable images: none were given"),
        ([(b"x", None), (b"x", None)], {}, DataError, "no usable images: 2 x image: expected JPEG"),
        ([(b"x", 4)], {}, DataError, "image number 0: class 4, the network has classes 0 to 3"),
        ([], {"target": "both"}, DataError, "'predicted' or 'true'"),
        ([], {"classes": ("a",)}, DataError, "4 scores, but 1 class names"),
        ([], {"batch_size": 0}, DataError, "batch size"),
        ([], {"threads": 0}, DataError, "threads: expected at least 1, got 0"),
        (
            [],
            {"preprocessing": Preprocessing(crop=(9, 9))},
            DataError,
            r"gives \(3, 9, 9\), the network takes",
        ),
        ([], {"split_points": ["layer9"]}, UnknownSplitPointError, "layer1"),
        ([], {"split_points": ["layer1.0.conv"]}, SplitPointError, "live"),
        ([(photos(1)[0], None)], {"codecs": ["gif"]}, UnknownCodecError, "fp32"),
        ([(photos(1)[0], None)], {"target": "true"}, DataError, "1 have none"),
    ],
)
def test_refusals(
    net: CapturedNetwork, data: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(net, data, **options)


def test_split_points_go_by_any_name_and_count_once(
    net: CapturedNetwork, images: list[PIL.Image.Image]
) -> None:
    result = run(
        net,
        [(images[0], None)],
        split_points=["layer1.1", "layer1", "input", "output"],
        codecs=["fp32"],
    )
    cuts = [str(m.cut) for m in result.measurements if not m.cut.is_photo]
    assert cuts == ["input:fp32", "layer1:fp32", "output:none"]


def test_progress_bar_writes_to_stderr_alone(
    net: CapturedNetwork, images: list[PIL.Image.Image], capfd: pytest.CaptureFixture[str]
) -> None:
    run(net, [(images[0], None)], split_points=[], progress=True)
    assert capfd.readouterr().out == ""


def test_settings_of_torch_and_numpy_are_put_back(net: CapturedNetwork) -> None:
    def state() -> tuple[int, int, bool, bool]:
        (blas,) = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        return (
            torch.get_num_threads(),
            blas,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        )

    before = state()
    with contextlib.suppress(DataError), cpu_threads(before[0] + 1), full_precision():
        assert state() == (before[0] + 1, before[0] + 1, False, False)
        raise DataError("x")
    assert state() == before
    run(net, [(photos(1)[0], None)], split_points=[], threads=2)
    assert state() == before


def test_all_activations_of_one_pass(net: CapturedNetwork, images: list[PIL.Image.Image]) -> None:
    names = [p.name for p in net.split_points]
    kept, scores = activations(net, names, inputs(images))
    with torch.inference_mode():
        torch.testing.assert_close(scores, net.model(inputs(images)), rtol=0, atol=0)
        for name in names:
            torch.testing.assert_close(
                kept[name], net.bisect(name)[0](inputs(images)), rtol=0, atol=0
            )


def test_a_network_stays_where_it_is(net: CapturedNetwork) -> None:
    assert on_device(net, "cpu") is net


def test_a_network_that_does_not_run_on_a_device_is_refused(net: CapturedNetwork) -> None:
    """The meta device computes no numbers, so the trial run fails."""
    with pytest.raises(CaptureError, match="does not run on meta"):
        on_device(net, "meta")
    with pytest.raises(CaptureError, match="does not run on nonsense"):
        run(net, [], device="nonsense")


@pytest.mark.parametrize("processor", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_cuda_agrees_with_the_cpu(
    net: CapturedNetwork, images: list[PIL.Image.Image], whole: Profile, processor: str
) -> None:
    result = run(net, [(image, None) for image in images], device=processor)
    assert result.provenance["device"] != "cpu"
    np.testing.assert_allclose(result.curve().mean, whole.curve().mean, rtol=1e-3)
    np.testing.assert_array_equal(result.count, whole.count)


def test_times_are_sums_over_what_head_and_tail_run(
    net: CapturedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that ticks when it is read, every operator takes one tick."""
    ticks: Iterator[int] = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    names = [p.name for p in net.split_points]
    heads, tails = part_times.head_and_tail_ms(net, names)

    def operators(part: nn.Module) -> int:
        assert isinstance(part, GraphModule)
        return sum(node.op == "call_function" for node in part.graph.nodes)

    for name in names:
        head, tail = net.bisect(name)
        assert heads[name] == pytest.approx(1000 * operators(head) / operators(net.model))
        assert tails[name] == pytest.approx(1000 * operators(tail) / operators(net.model))
    assert (heads["input"], tails["output"]) == (0, 0)
    assert heads["output"] == tails["input"] == 1000


def test_times_cover_every_split_point(net: CapturedNetwork, whole: Profile) -> None:
    names = {"input", "output", *(p.name for p in net.split_points)}
    assert set(whole.head_ms) == set(whole.tail_ms) == names
    assert whole.head_ms["output"] == whole.tail_ms["input"] > 0
