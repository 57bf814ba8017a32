from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from isplit_plugin import image as im
from isplit_plugin.errors import ArtifactError, CaptureError, DataError, UnknownModelError
from isplit_plugin.network import LoadedNetwork, load_network
from isplit_plugin.network.weights import read_classes, read_weights
from isplit_plugin.schema import Preprocessing

TINY = Preprocessing(
    crop=(8, 8), resize=9, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), interpolation="bicubic"
)
LABELS = ("a", "b", "c")


class Tiny(nn.Module):
    """Three scores from an image of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


class Described(NamedTuple):
    model: nn.Module
    preprocessing: Preprocessing | None = TINY
    classes: tuple[str, ...] | None = LABELS


def module_only() -> nn.Module:
    return Tiny()


def described() -> Described:
    return Described(Tiny())


def whole() -> LoadedNetwork:
    return LoadedNetwork(Tiny(), torch.ones(2, 3, 8, 8), TINY, LABELS)


def short_tuple() -> tuple[nn.Module, Preprocessing]:
    return Tiny(), TINY


class Masked(Tiny):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x * mask)


def wants_two() -> tuple[nn.Module, Preprocessing]:
    return Masked(), TINY


instance = Tiny()
not_a_network = 3


def raises() -> nn.Module:
    raise RuntimeError("no such GPU")


def returns_text() -> str:
    return "network"


def wrong_preprocessing() -> tuple[nn.Module, str]:
    return Tiny(), "imagenet"


def five_labels() -> tuple[nn.Module, Preprocessing, list[str]]:
    return Tiny(), TINY, list("abcde")


def no_classifier() -> tuple[nn.Module, Preprocessing]:
    return nn.Conv2d(3, 3, 3), TINY


def wants_grey() -> tuple[nn.Module, Preprocessing]:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), TINY


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    yield
    sys.modules.pop("test_loading_elsewhere", None)


def spec(name: str) -> str:
    return f"{__name__}:{name}"


@pytest.mark.parametrize("name", ["described", "whole", "five_labels"])
def test_what_a_factory_says_is_kept(name: str) -> None:
    if name == "five_labels":
        with pytest.raises(DataError, match="3 scores, but 5 class names"):
            load_network(spec(name))
        return
    loaded = load_network(spec(name))
    assert (loaded.preprocessing, loaded.classes) == (TINY, LABELS)
    assert tuple(loaded.example_input.shape[1:]) == TINY.shape
    assert not loaded.model.training


def test_example_of_the_factory_is_kept() -> None:
    torch.testing.assert_close(load_network(spec("whole")).example_input, torch.ones(2, 3, 8, 8))


def test_parts_left_out_have_defaults() -> None:
    loaded = load_network(spec("short_tuple"))
    assert (loaded.preprocessing, loaded.classes) == (TINY, ("0", "1", "2"))
    assert load_network(spec("instance"), input_size=8).model is instance


def test_a_module_alone_needs_an_input_size() -> None:
    with pytest.raises(CaptureError, match="give input_size"):
        load_network(spec("module_only"))
    loaded = load_network(spec("module_only"), input_size=(20, 30))
    assert loaded.preprocessing == Preprocessing(crop=(20, 30), resize=23)  # 20 * 256 / 224 = 22.9
    assert load_network(spec("Tiny"), input_size=7, resize=0).preprocessing.resize is None


def test_arguments_take_precedence_over_the_factory() -> None:
    loaded = load_network(
        spec("described"),
        classes=["x", "y", "z"],
        input_size=16,
        mean=[0, 0, 0],
        std=[1, 1, 1],
        interpolation="nearest",
    )
    # The resize keeps its ratio to the crop: 9 * 16 / 8.
    assert loaded.preprocessing == Preprocessing(
        (16, 16), 18, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "nearest"
    )
    assert loaded.classes == ("x", "y", "z")
    assert load_network(spec("described"), resize=11).preprocessing.resize == 11


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("raises", {}, CaptureError, "RuntimeError: no such GPU"),
        ("absent", {}, CaptureError, "AttributeError"),
        ("returns_text", {}, CaptureError, "expected an nn.Module"),
        ("not_a_network", {}, CaptureError, "got int"),
        ("wrong_preprocessing", {}, CaptureError, "Tiny and str"),
        (
            "no_classifier",
            {},
            CaptureError,
            r"class scores of shape \(N, classes\), got \(1, 3, 6, 6\)",
        ),
        ("wants_two", {}, CaptureError, "one input, got 2 inputs: x, mask"),
        ("wants_grey", {}, CaptureError, r"does not run on inputs of shape \(1, 3, 8, 8\)"),
        ("described", {"mean": [1.0]}, DataError, "mean: expected 3 numbers"),
        ("described", {"std": [1.0, 0.0, 1.0]}, DataError, "above 0"),
        ("described", {"std": [1.0, float("nan"), 1.0]}, DataError, "std: expected 3 numbers"),
        ("described", {"input_size": 0}, DataError, "input size"),
        ("described", {"classes": ["a"]}, DataError, "3 scores, but 1"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_network(spec(name), **options)


@pytest.mark.parametrize(
    "text", ["resnet50", "a b:c", "torch vision:x", "no.such.module:f", "", ":", "a:"]
)
def test_specs_without_a_network(text: str) -> None:
    with pytest.raises(CaptureError, match=r"expected torchvision:NAME|ModuleNotFoundError"):
        load_network(text)


def test_factory_beside_the_caller_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_loading_elsewhere.py").write_text(
        "import torch\nnet = lambda: torch.nn.Sequential(torch.nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(load_network("test_loading_elsewhere:net", input_size=2).classes) == 12


def test_torchvision_brings_its_preprocessing_and_classes() -> None:
    from torchvision.models import ResNet18_Weights

    loaded = load_network("torchvision:resnet18")
    weights = ResNet18_Weights.DEFAULT
    assert loaded.classes == tuple(weights.meta["categories"])
    photo = PIL.Image.effect_noise((300, 280), 60).convert("RGB")
    torch.testing.assert_close(
        torch.from_numpy(im.preprocess(photo, loaded.preprocessing)),
        weights.transforms(antialias=True)(photo),
        rtol=0,
        atol=0,
    )


def test_given_classes_set_the_width_of_the_classifier() -> None:
    for source in ("torchvision:squeezenet1_1", "timm:lcnet_050"):
        assert load_network(source, classes=["x", "y"], input_size=64).classes == ("x", "y")


def test_timm_brings_its_preprocessing_and_classes() -> None:
    loaded = load_network("timm:lcnet_050")
    assert loaded.preprocessing == Preprocessing(
        crop=(224, 224), resize=256, interpolation="bicubic"
    )
    assert loaded.classes[:2] == ("tench", "goldfish")
    assert len(loaded.classes) == 1000


def test_unknown_names_list_what_is_near() -> None:
    with pytest.raises(UnknownModelError, match="resnet50"):
        load_network("torchvision:resnet5O")
    with pytest.raises(UnknownModelError, match="resnet50"):
        load_network("timm:resnet5O")


def save(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_arrive_in_the_networks_precision(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    state = {
        k: torch.full_like(v, 0.5, dtype=dtype)
        for k, v in Tiny().state_dict().items()
        if v.is_floating_point()
    }
    loaded = load_network(spec("described"), save(state, tmp_path / name))
    for key, value in loaded.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.full_like(value, 0.5), msg=key)
            assert value.dtype == torch.float32


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    state = {f"module.{k}": v for k, v in Tiny().state_dict().items()}
    path = tmp_path / "checkpoint.pt"
    torch.save({wrapper: state, "epoch": 3}, path)
    loaded = load_network(spec("described"), path)
    torch.testing.assert_close(
        loaded.model.state_dict()["conv.weight"], state["module.conv.weight"]
    )


def test_weights_that_do_not_fit_name_the_keys(tmp_path: Path) -> None:
    state = dict(Tiny().state_dict())
    state["extra.weight"] = state.pop("conv.weight")
    state["norm.weight"] = torch.zeros(4)
    with pytest.raises(ArtifactError) as caught:
        load_network(spec("described"), save(state, tmp_path / "w.safetensors"))
    for part in (
        "1 missing: conv.weight",
        "1 unexpected: extra.weight",
        "norm.weight (4,), expected (3,)",
        "w.safetensors",
    ):
        assert part in caught.value.message


def test_weights_for_another_number_of_classes_suggest_it(tmp_path: Path) -> None:
    network = "torchvision:shufflenet_v2_x0_5"
    names = [str(class_id) for class_id in range(10)]
    state = load_network(network, classes=names).model.state_dict()
    path = save(dict(state), tmp_path / "w.safetensors")
    suggestion = r"for 10 classes, the network has 1000: give --classes 10"
    with pytest.raises(ArtifactError, match=suggestion):
        load_network(network, path)
    state["conv1.0.weight"] = state["conv1.0.weight"][:, :2].contiguous()
    save(dict(state), path)
    with pytest.raises(ArtifactError) as caught:
        load_network(network, path)
    assert "--classes" not in caught.value.message


def test_a_factory_decides_its_number_of_classes(tmp_path: Path) -> None:
    state = {
        name: tensor.repeat(2, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor
        for name, tensor in Tiny().state_dict().items()
    }
    with pytest.raises(ArtifactError) as caught:
        load_network(spec("described"), save(state, tmp_path / "w.safetensors"))
    assert "--classes" not in caught.value.message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = dict(Tiny().state_dict())
    state["conv.bias"] = torch.tensor([0.0, float("nan"), 1.0])
    with pytest.raises(ArtifactError, match="NaN or infinite weights in conv"):
        load_network(spec("described"), save(state, tmp_path / "w.pt"))


class Payload:
    """Sets a mark in ``sys`` if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import sys; sys.isplit_was_here = True",))


def test_weights_run_no_code(tmp_path: Path) -> None:
    torch.save({"conv.weight": Payload()}, tmp_path / "w.pt")
    with pytest.raises(ArtifactError, match="or a state dict of tensors"):
        read_weights(tmp_path / "w.pt")
    assert not hasattr(sys, "isplit_was_here")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_unreadable_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ArtifactError, match="no such file"):
        read_weights(path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(ArtifactError, match=name):
        read_weights(path)
    if name == "w.pt":
        torch.save([1, 2], path)
        with pytest.raises(ArtifactError, match="got list"):
            read_weights(path)


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classes"
    path.write_text("\ufeff a cat \n\nchien, loup\n", encoding="utf-8")
    assert read_classes(path) == ("a cat", "chien, loup")
    path.write_text(json.dumps(["x", "y z"]))
    assert read_classes(path) == ("x", "y z")
    for content, message in [
        ("", "no class names"),
        ("[]", "no class names"),
        ("[1]", "list of strings"),
        ("[", "JSON"),
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            read_classes(path)
    with pytest.raises(DataError, match="cannot read"):
        read_classes(tmp_path / "absent")


def test_exported_network(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt2"
    net = Tiny().eval()
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(
        torch.export.export(net, (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: batch},)), path
    )
    loaded = load_network(path, classes=LABELS)
    assert loaded.preprocessing.crop == (8, 8)
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(loaded.model(x), net(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded.capture().model(x), net(x), rtol=0, atol=0)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(ArtifactError, match="expected an exported network"):
        load_network(path)
    with pytest.raises(ArtifactError, match="no such file"):
        load_network(tmp_path / "absent.pt2")


def test_saved_captured_network_keeps_its_names(tmp_path: Path) -> None:
    once = load_network(spec("described")).capture()
    once.save(tmp_path / "tiny.pt2")
    again = load_network(
        tmp_path / "tiny.pt2", mean=TINY.mean, std=TINY.std, resize=9, interpolation="bicubic"
    )
    assert again.preprocessing == TINY
    assert again.capture().split_points == once.split_points
    assert again.capture().network_hash(TINY) == once.network_hash(TINY)


def test_efficientnet_lite0_recognises_the_photos() -> None:
    foolbox = pytest.importorskip("importlib.util").find_spec("foolbox")
    photos = sorted((Path(foolbox.origin).parent / "data").glob("imagenet_*.jpg"))
    loaded = load_network("isplit_plugin.network.zoo:efficientnet_lite0")
    truth = torch.tensor([int(p.stem.rpartition("_")[2]) for p in photos])
    inputs = torch.stack([torch.from_numpy(im.preprocess(p, loaded.preprocessing)) for p in photos])
    with torch.inference_mode():
        right = loaded.model(inputs).argmax(1) == truth
    assert (len(photos), int(right.sum())) == (20, 17)
    assert loaded.classes[243] == "bull mastiff"  # the first photo
