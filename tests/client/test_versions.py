"""A client asks for its bundle's network, at its bundle's version, whatever else is served."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import PIL.Image
import pytest
from toys.client import (
    TOKEN,
    Server,
    answering,
    make_manifest,
    photo,
    recommendation,
    torchserve_error,
)

from isplit_plugin.client import SplitClient, fetch_recommendation
from isplit_plugin.errors import (
    IsplitError,
    NetworkMismatchError,
    QueryError,
    UnknownModelError,
    UnknownVersionError,
)

Connect = Callable[..., SplitClient]
PHOTO = photo(51, 204, 0)


def paths(server: Server) -> list[str]:
    return [seen.path for seen in server.state.seen]


def refusing(error: IsplitError) -> Any:
    return answering(error.status, json.dumps(error.to_json()).encode())


def test_predictions_go_to_the_bundles_version(connect: Connect, server: Server) -> None:
    server.state.versions = ("1.0", "2.0")
    connect().predict(PHOTO)
    connect(version="2.0").predict(PHOTO)
    jpeg = io.BytesIO()
    PIL.Image.fromarray(PHOTO).save(jpeg, "JPEG")
    connect(head=None).predict(jpeg.getvalue())
    assert paths(server) == ["/predictions/toy/1.0", "/predictions/toy/2.0", "/predictions/toy"]


def test_the_default_version_is_used_where_the_bundles_is_gone(
    connect: Connect, server: Server
) -> None:
    """As after a release with another bottleneck but the same network."""
    server.state.versions = ("1.1",)
    client = connect()
    for _ in range(2):
        assert client.predict(PHOTO).label == "green"
    assert paths(server) == ["/predictions/toy/1.0", "/predictions/toy", "/predictions/toy"]


def test_another_network_at_the_default_version_is_a_mismatch(
    connect: Connect, server: Server
) -> None:
    server.state.versions = ("2.0",)
    server.state.manifest = make_manifest(network_hash="beef", version="2.0")
    client = connect()
    for _ in range(2):
        with pytest.raises(NetworkMismatchError):
            client.predict(PHOTO)
    assert paths(server) == ["/predictions/toy/1.0", "/predictions/toy"] * 2
    # the version comes back, and the same client goes on
    server.state.versions = ("1.0",)
    server.state.manifest = make_manifest()
    assert client.predict(PHOTO).label == "green"


def test_a_named_version_that_is_not_there_names_those_that_are(
    connect: Connect, server: Server
) -> None:
    client = connect(version="3.0")
    listing = [{"model": "toy", "version": v} for v in ("1.0", "2.0\n", "3.0")]
    gone = torchserve_error(404, "ModelVersionNotFoundException", "Model version: 3.0 does not")
    body = json.dumps({"models": [*listing, {"model": "other", "version": "7"}]}).encode()
    server.state.faults = [gone, answering(200, body)]
    with pytest.raises(UnknownVersionError, match=r"no version '3\.0' of model 'toy'") as caught:
        client.predict(PHOTO)
    assert caught.value.details == {"known": ["1.0", "2.0\N{REPLACEMENT CHARACTER}"]}
    assert paths(server) == ["/predictions/toy/3.0", "/predictions/isplit/1.0/models/toy"]


@pytest.mark.parametrize(
    "listing", [b"", b"[]", b'{"models": 3}', b'{"models": [{"version": []}]}', b'{"models": [3]}']
)
def test_a_list_of_versions_that_cannot_be_read_hides_no_error(
    connect: Connect, server: Server, listing: bytes
) -> None:
    gone = torchserve_error(404, "ModelVersionNotFoundException", "Model version: 3.0 does not")
    server.state.faults = [gone, answering(200, listing)]
    with pytest.raises(UnknownVersionError, match=r"Model version: 3\.0 does not"):
        connect(version="3.0").predict(PHOTO)


def test_a_model_that_is_not_there_is_no_missing_version(connect: Connect, server: Server) -> None:
    with pytest.raises(UnknownModelError) as caught:
        connect(model="cat").predict(PHOTO)
    assert not isinstance(caught.value, UnknownVersionError)
    assert paths(server) == ["/predictions/cat/1.0"]


def test_questions_name_the_version_and_the_network(connect: Connect, server: Server) -> None:
    start = "/predictions/isplit/1.0/recommendations/toy"
    client = connect(token=TOKEN)
    client.use(client.recommendation())
    connect(version="1.5").recommendation(classes=[1])
    connect(head=None).recommendation()
    connect(head=None, version="2.0").recommendation()
    assert paths(server) == [
        f"{start}/version/1.0/network_hash/feed",
        f"{start}/version/1.5/network_hash/feed/classes/1",
        start,
        f"{start}/version/2.0",
    ]
    client.recommendation(max_bytes=9)
    fetch_recommendation(server.url, "toy", version="2.0", network_hash="beef", max_bytes=9)
    bodies = [json.loads(seen.body) for seen in server.state.seen[-2:]]
    assert [(body["version"], body["network_hash"]) for body in bodies] == [
        ("1.0", "feed"),
        ("2.0", "beef"),
    ]


@pytest.mark.parametrize(
    "error", [UnknownVersionError("gone", known=["1.1"]), NetworkMismatchError("replaced")]
)
def test_where_the_bundles_version_is_gone_its_network_is_asked_for(
    connect: Connect, server: Server, error: IsplitError
) -> None:
    server.state.advice = replace(recommendation(), version="1.1")
    server.state.faults = [refusing(error)]
    client = connect()
    answer = client.recommendation(classes=iter((1, 2)))
    client.use(answer)
    assert answer.version == "1.1"
    assert paths(server)[-1].endswith("/recommendations/toy/network_hash/feed/classes/1,2")
    server.state.faults = [refusing(error)]
    with pytest.raises(type(error)):
        connect(version="1.0").recommendation()


@pytest.mark.parametrize("model", ["toy/1.0", "toy/", "", "a/b/c"])
def test_a_model_with_a_version_is_refused_in_favour_of_the_version(
    connect: Connect, server: Server, model: str
) -> None:
    with pytest.raises(QueryError, match="expected the name of a model alone"):
        connect(model=model)
    with pytest.raises(QueryError, match="expected the name of a model alone"):
        fetch_recommendation(server.url, model)
    assert paths(server) == []


def test_the_refusal_says_what_to_write(connect: Connect) -> None:
    with pytest.raises(QueryError, match=r"model='toy', version='1\.0'"):
        connect(model="toy/1.0")


@pytest.mark.parametrize("version", ["", "1/0", 2.0])
def test_a_version_is_text(connect: Connect, version: Any) -> None:
    with pytest.raises(QueryError, match="version: expected text"):
        connect(version=version)
