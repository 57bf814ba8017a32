"""Paths that pass, and tricks with paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isplit_plugin.errors import UnknownModelError, UnknownRouteError, WireError
from isplit_plugin.forwarder.routes import Kind, read_route

MODELS = frozenset({"toy", "a.b c"})
ENDPOINT = "/predictions/isplit/1.0"


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("POST", "/predictions/toy", Kind.PREDICTION),
        ("PUT", "/predictions/toy/1.0", Kind.PREDICTION),
        ("POST", "/predictions/a.b%20c", Kind.PREDICTION),
        ("POST", "/explanations/toy", Kind.PREDICTION),
        ("POST", "/v2/models/toy/infer", Kind.PREDICTION),
        ("POST", "/predictions/isplit", Kind.MESSAGE),
        ("GET", f"{ENDPOINT}/help", Kind.QUESTION),
        ("GET", f"{ENDPOINT}/recommendations/toy", Kind.QUESTION),
        ("GET", f"{ENDPOINT}/recommendations/toy/version/1.0/network_hash/6a55", Kind.QUESTION),
        ("GET", f"{ENDPOINT}/models/toy", Kind.QUESTION),
        ("GET", f"{ENDPOINT}/recommendations/toy/classes/1,2/group/K%C3%B6ln", Kind.QUESTION),
    ],
)
def test_what_passes(method: str, target: str, kind: Kind) -> None:
    route = read_route(method, target, MODELS, explanations=True)
    assert (route.kind, route.path) == (kind, target)


def test_a_path_is_written_in_one_way() -> None:
    assert read_route("POST", "/%70redictions/%74oy", MODELS).path == "/predictions/toy"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/predictions/toy"),
        ("DELETE", "/predictions/toy"),
        ("OPTIONS", "/predictions/toy"),
        ("CONNECT", "/predictions/toy"),
        ("POST", "/predictions/toy/1.0/more"),
        ("POST", "/explanations/toy"),
        ("POST", f"{ENDPOINT}/help"),
        ("GET", "/predictions/isplit"),
        ("GET", "/predictions/isplit/1.0"),
        ("GET", "/models"),
        ("GET", "/models/isplit/invoke"),
        ("POST", "/models/toy/invoke"),
        ("POST", "/models"),
        ("PUT", "/models/toy"),
        ("GET", "/token"),
        ("GET", "/metrics"),
        ("GET", "/api-description"),
        ("POST", "/v1/models/toy:predict"),
        ("GET", "/v2/models/toy"),
        ("GET", "/v2/health/ready"),
        ("PUT", "/v2/models/toy/infer"),
        ("POST", "/v2/models/isplit/infer"),
        ("POST", "/v2/models/toy/infer/x"),
        ("POST", "/v2/repository/index"),
        ("POST", "/wfpredict/toy"),
        ("POST", "/PREDICTIONS/toy"),
        ("POST", "/explanations/isplit"),
    ],
)
def test_other_routes(method: str, target: str) -> None:
    with pytest.raises((UnknownRouteError, WireError)) as caught:
        read_route(method, target, MODELS)
    if isinstance(caught.value, UnknownRouteError):
        assert "POST /predictions/<model>" in caught.value.message


@pytest.mark.parametrize(
    "target",
    [
        "/predictions/../models/toy",
        "/predictions/toy/..",
        "/predictions/toy/%2e%2e",
        "/predictions/%2E/toy",
        "/predictions/toy%2f..%2f..%2fmodels",
        "/predictions/toy%252f..",
        "/predictions/toy%5c..",
        "/predictions/toy\\..",
        "//predictions/toy",
        "/predictions//toy",
        "/predictions/toy/",
        "/predictions/toy%00",
        "/predictions/toy%0d%0aX:y",
        "/predictions/toy%c0%ae",
        "/predictions/toy?describe=true",
        "/predictions/toy#x",
        "http://127.0.0.1:8081/models",
        "http://127.0.0.1/predictions/toy",
        "*",
        "predictions/toy",
        "",
        "/predictions/" + "a" * 5000,
        "/predictions/t\u00f6y",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_tricks_with_paths(method: str, target: str) -> None:
    with pytest.raises(WireError, match="path"):
        read_route(method, target, MODELS, explanations=True)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/predictions/toy;x=1"),
        ("POST", "/predictions/TOY"),
        ("POST", "/predictions/toy%20"),
        ("POST", "/predictions/other/1.0"),
        ("POST", "/v2/models/other/infer"),
        ("GET", f"{ENDPOINT}/recommendations/other"),
        ("GET", f"{ENDPOINT}/recommendations"),
        ("GET", f"{ENDPOINT}/models"),
        ("GET", f"{ENDPOINT}/help/other"),
        ("GET", f"{ENDPOINT}/toy/recommendations"),
    ],
)
def test_other_models(method: str, target: str) -> None:
    with pytest.raises(UnknownModelError, match=r"known: a\.b c, toy"):
        read_route(method, target, MODELS)


@given(
    st.sampled_from(["GET", "POST"]),
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "/",
                ".",
                "%2f",
                "%2e",
                "predictions",
                "isplit",
                "toy",
                "1.0",
                "%25",
                "x",
                "models",
                "v2",
                "infer",
            ]
        ),
        max_size=12,
    ).map("".join),
)
def test_what_passes_means_what_was_checked(method: str, target: str) -> None:
    try:
        route = read_route(method, target, MODELS, explanations=True)
    except (WireError, UnknownRouteError, UnknownModelError):
        return
    assert read_route(method, route.path, MODELS, explanations=True) == route
    segments = route.path.split("/")[1:]
    assert segments[0] in ("predictions", "explanations", "v2")
    assert not {"", ".", ".."} & set(segments)
    assert "%2f" not in route.path.lower()
