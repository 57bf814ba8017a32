"""The routes of the endpoint, and the page that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ... import __version__

ROUTES: Final[Mapping[str, str]] = {
    "help": "this page",
    "models[/<model>]": "the versions of all models in the store, or of one",
    "recommendations/<model>": (
        "the cut to use now, and where a bottleneck is worth training, for the live mix"
    ),
    "recommendations/<model>/classes/<id>[,<id>...]": "the same for these classes",
    "classes/<model>": "class ids, labels and how often each was predicted",
    "curves/<model>/classes/<id>[,<id>...]": "the CUI curve of each of these classes",
    "accuracy/<model>[/classes/<id>[,<id>...]]": "measured accuracy from labels, by cut and class",
    "groups/<model>": "the device groups that sent requests",
    "changes/<model>[/group/<name>]": "the changes of the standing pick",
    "exits/<model>": "the exits of a network by cut, with the state of each class",
    "exit/<model>/hash/<exit>": "a version of an exit and its release, both signed, in base64",
    "release/<model>/hash/<exit>": "its release alone: what devices may answer by it now",
}


def help_page() -> dict[str, Any]:
    """All routes, with what each answers."""
    get = "GET /predictions/isplit/1.0/"
    return {
        "endpoint": "isplit",
        "version": __version__,
        "routes": {get + path: text for path, text in ROUTES.items()}
        | {
            "GET /models/isplit/invoke?model=<model>&class=<id>[,<id>...]&group=<group>&bandwidth_mbps=<x>": (
                "recommendations with any of the fields below as query parameters"
            ),
            "POST /predictions/isplit": (
                'JSON: {"model", "version", "classes", "group", "rule", "candidate_set", "mix", "constraints": '
                '{"bandwidth_mbps", "rtt_ms", "max_latency_ms", "max_bytes", "max_head_macs", "accuracy_tolerance", '
                '"objective", "device_slowdown"}}; all but the model may be left out. Or a device\'s part of a probe: '
                '{"probe": {"ticket", "values", "network", "class", "device"}}'
            ),
            "POST /predictions/isplit with labels": (
                'JSON: {"labels": [{"request_id", "class"}, ...], "token"}: true classes of at most 1000 requests of '
                "the last day (100,000 of a network, shared fairly between devices), under the secret of "
                "ISPLIT_LABEL_SECRET_FILE (or the header isplit-label-token)"
            ),
        },
    }
