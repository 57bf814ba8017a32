"""A back office labels what devices sent, through a real TorchServe; the answer shows what it
measured.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import requests
import torch
from toys.live_server import Live
from toys.serving import CLASSES, head_of, tensor_request


def send(live: Live, count: int, group: str) -> list[tuple[str, int]]:
    """Request ids and predicted classes."""
    net, hashed = live.toy.net, live.toy.manifest.network_hash
    torch.manual_seed(31)
    values = head_of(net, "relu2", torch.randn(count, 3, 16, 16))
    found = []
    for i in range(count):
        request = tensor_request(
            values[i : i + 1], "relu2", "uint8", network_hash=hashed, group=group
        )
        answer = live.predict("toy", request)
        found.append((answer.request_id, int(answer.top_class[0, 0])))
    return found


def label(
    live: Live, items: list[dict[str, Any]], token: str | None, *, header: bool = False
) -> requests.Response:
    body: dict[str, Any] = {"labels": items}
    headers = {"isplit-label-token": token} if header and token else {}
    if not header:
        body["token"] = token
    return live.post("predictions/isplit", json=body, headers=headers)


def test_labels_reach_the_outcome_and_wrong_secrets_do_not(live: Live) -> None:
    sent = send(live, 12, "office")
    wrong = [(p + 1) % len(CLASSES) if i < 3 else p for i, (_, p) in enumerate(sent)]
    items = [{"request_id": r, "class": c} for (r, _), c in zip(sent, wrong, strict=True)]
    for token in ("guess", None):
        refused = label(live, items, token)
        assert (refused.status_code, refused.json()["code"]) == (403, "bad_label_secret")

    deadline = time.monotonic() + 60
    pending, correct = items, 0
    while pending:  # a request is known once its worker has flushed
        assert time.monotonic() < deadline, pending
        answer = label(live, pending, live.label_secret, header=len(pending) % 2 == 0)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        rows = body["labels"]
        assert {row.get("code") for row in rows} <= {None, "unknown_request"}
        correct += sum(row.get("correct", False) for row in rows)
        pending = [item for item, row in zip(pending, rows, strict=True) if "code" in row]
        time.sleep(0.1 if pending else 0)
    assert correct == 9

    told = live.get("predictions/isplit/1.0/accuracy/toy/group/office").json()
    (row,) = told["accuracy"]
    assert (row["cut"], row["split_point"], row["codec"]) == (
        "relu2:uint8",
        "relu2",
        "uint8",
    )
    np.testing.assert_allclose(
        [row["predictions"], row["labelled"], row["correct"]], [12, 12, 9], rtol=1e-3
    )
    assert row["accuracy_low"] < 0.75 < row["accuracy_high"]
    assert sum(round(c["labelled"]) for c in row["classes"]) == 12

    again = label(
        live,
        [*items[:1], {"request_id": "never", "class": 0}, {"request_id": sent[1][0], "class": 99}],
        live.label_secret,
    ).json()
    assert [r["code"] for r in again["labels"]] == [
        "labelled_before",
        "unknown_request",
        "unknown_class",
    ]


def test_groups_and_changes_are_told(live: Live) -> None:
    send(live, 2, "porch")
    deadline = time.monotonic() + 60
    while "porch" not in (
        names := [
            g["group"] for g in live.get("predictions/isplit/1.0/groups/toy").json()["groups"]
        ]
    ):
        assert time.monotonic() < deadline, names
        time.sleep(0.1)
    answer = live.get("predictions/isplit/1.0/recommendations/toy/group/porch").json()
    assert answer["group"] == "porch"
    assert answer["standing"]["cut"] == answer["cut"]
    changes = live.get("predictions/isplit/1.0/changes/toy/group/porch").json()["changes"]
    assert changes[-1]["kind"] == "start"
    assert "accuracy/<model>" in live.get("predictions/isplit/1.0/help").text
