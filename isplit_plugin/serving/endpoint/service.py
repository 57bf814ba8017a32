"""The logic of ``handlers/recommendation_handler.py``: the endpoint `isplit`, which reads the store and answers.

A model of its own with one worker, so that a question never waits behind predictions. It loads no network.
"""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ... import __version__
from ...advice import (
    ALL_GROUPS,
    LiveView,
    Query,
    SwitchingPolicy,
    bare_profile,
    class_curves,
    has_standing_pick,
    live_weights,
    recommend,
)
from ...device_tokens import read_secret
from ...errors import IsplitError, QueryError, StoreError, UnknownClassError, WireSizeError
from ...probing.endpoint import read_report, take
from ...profile import Profile
from ...schema import Manifest
from ...traffic import Store
from ...traffic.delta import MAX_GROUPS, OTHER
from ...wire import find_header
from .. import replies as answers
from ..settings import EndpointSettings
from . import listings
from .labels import read_labels, take_labels
from .question import ROUTES, Question, read_question
from .snapshot import Snapshot
from .standing import standing_answer

_LOGGER = logging.getLogger(__name__)

MAX_ANSWER: Final = 6_000_000
"""Largest body of an answer, below TorchServe's default limit: a larger one would end the worker."""
MAX_CURVES: Final = 100
CACHED_ANSWERS: Final = 256
CACHED_BYTES: Final = 32 * 1024 * 1024


class Endpoint:
    """The worker of the endpoint.

    A store that cannot be reached makes answers fail with 503, but never the worker.

    Parameters:
        context: TorchServe's, at load; its configuration becomes an :class:`EndpointSettings`.

    Raises:
        ServingError: the configuration has an unknown key or a value that cannot be used.
        SecretError: the file with the operator's secret cannot be used.
    """

    def __init__(self, context: Any) -> None:
        self._settings = settings = EndpointSettings.from_config(context.model_yaml_config)
        self._secret = None if settings.secret_file is None else read_secret(settings.secret_file)
        self._policy = SwitchingPolicy(settings.min_gain, settings.dwell_s)
        self._store: Store | None = None
        self._known: Snapshot | None = None
        self._cache: OrderedDict[tuple[tuple[int, int], str], str] = OrderedDict()
        self._cached_bytes = 0
        self._counts: dict[str, int] = defaultdict(int)

    def handle(self, data: Sequence[Mapping[Any, Any]], context: Any) -> list[str]:
        """Answer a batch: one JSON body per request, with status and headers set in ``context``. Raises nothing."""
        out = []
        for index, row in enumerate(data):
            try:
                headers = answers.request_headers(context, index)
                if find_header(headers, "describe") == "True":
                    out.append(answers.json_answer(context, index, self.describe()))
                    continue
                body = self._answer(row, headers)
                context.set_response_content_type(index, answers.JSON_TYPE)
                out.append(body)
                self._counts["answered"] += 1
            except Exception as error:
                text, code = answers.error_answer(context, index, error)
                out.append(text)
                self._counts[code] += 1
        return out

    def _answer(self, row: Mapping[Any, Any], headers: Mapping[str, str]) -> str:
        report = read_report(row)
        if report is None:
            labels = read_labels(row, headers)
            if labels is not None:
                return _dump(take_labels(self._open(), self._settings.label_secret_file, labels))
            return self.answer(read_question(row, headers))
        per_hour = self._settings.probes.per_hour
        return _dump(take(self._open(), self._secret, report, per_hour=per_hour))

    def describe(self) -> dict[str, Any]:
        """A status from memory alone."""
        return {
            "endpoint": "isplit",
            "version": __version__,
            "answers": dict(self._counts),
            "cached": len(self._cache),
        }

    def answer(self, question: Question) -> str:
        """The JSON body for one question. Raises the errors of :mod:`isplit_plugin.errors` alone.

        Answers are kept by the store's revision: as long as nothing was written, a question costs one read, and one
        that was asked before nothing else.
        """
        if question.topic == "help":
            return _dump(_help())
        store = self._open()
        known = self._at_revision(store)
        key = (known.revision, question.key())
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        text = _dump(self._compute(store, known, question))
        if len(text) > MAX_ANSWER:
            raise WireSizeError(
                f"the answer takes {len(text)} bytes, at most {MAX_ANSWER}: ask for fewer classes"
            )
        self._keep(key, text)
        return text

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _open(self) -> Store:
        if self._store is None:
            self._store = Store(self._settings.store)
        return self._store

    def _keep(self, key: tuple[tuple[int, int], str], text: str) -> None:
        self._cache[key] = text
        self._cached_bytes += len(text)
        while len(self._cache) > CACHED_ANSWERS or self._cached_bytes > CACHED_BYTES:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= len(old)

    def _at_revision(self, store: Store) -> Snapshot:
        revision = (
            store.revision(),
            store.opened,
        )  # in this order: reading follows a file that took another's place
        if self._known is None or self._known.revision != revision:
            self._known = Snapshot(store, revision)
        return self._known

    def _compute(self, store: Store, known: Snapshot, question: Question) -> dict[str, Any]:
        if question.topic == "models":
            return _models(store)
        manifest = known.manifest(question.model, question.version)
        if question.topic == "groups":
            return listings.groups(manifest, known.groups(manifest.network_hash))
        query = _known_group(known, manifest, question.query)
        question = replace(question, query=query)
        if question.topic == "changes":
            return listings.changes(manifest, query.group, store.changes(manifest, query.group))
        profile = known.profile(manifest.network_hash)
        if question.topic == "recommendations" and has_standing_pick(query):
            snapshot = known.standing(manifest, query.group)
            return standing_answer(
                store, manifest, profile, query, self._policy, snapshot=snapshot
            ).to_json()
        live = known.view(manifest.network_hash, query.group)
        if question.topic == "accuracy":
            return listings.accuracy(manifest, live, query.classes)
        if question.topic == "classes":
            return _classes(manifest, live)
        if question.topic == "curves":
            return _curves(manifest, profile, live, question)
        return recommend(manifest, profile, live, question.query).to_json()


def _known_group(at: Snapshot, manifest: Manifest, query: Query) -> Query:
    """The question for the group that a device of this name is counted in: above the cap that is ``other``."""
    if query.group == ALL_GROUPS:
        return query
    known = {group.name for group in at.groups(manifest.network_hash)}
    full = OTHER in known and len(known - {OTHER}) >= MAX_GROUPS
    return replace(query, group=OTHER) if full and query.group not in known else query


def _dump(body: Mapping[str, Any]) -> str:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise IsplitError("the answer holds a value that JSON cannot carry") from error


def _help() -> dict[str, Any]:
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
                "the last day, under the secret of ISPLIT_LABEL_SECRET_FILE (or the header isplit-label-token)"
            ),
        },
    }


def _models(store: Store) -> dict[str, Any]:
    return {
        "models": [
            {
                "model": found.model,
                "version": found.version,
                "network_hash": found.network_hash,
                "has_profile": found.has_profile,
                "as_of": found.as_of,
            }
            for found in store.networks()
        ]
    }


def _classes(manifest: Manifest, live: LiveView) -> dict[str, Any]:
    weight, count = live_weights(live, len(manifest.classes))
    total = weight.sum()
    share = weight / total if total > 0 else weight
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network_hash": manifest.network_hash,
        "group": live.group,
        "as_of": live.as_of,
        "classes": [
            {"id": i, "label": label, "seen": int(count[i]), "share": float(share[i])}
            for i, label in enumerate(manifest.classes)
        ],
    }


def _curves(
    manifest: Manifest, profile: Profile | None, live: LiveView, question: Question
) -> dict[str, Any]:
    asked = question.query.classes
    if asked is None or len(asked) > MAX_CURVES:
        got = "none" if asked is None else len(asked)
        raise QueryError(
            f"classes: expected 1 to {MAX_CURVES} class ids for curves, got {got}", field="classes"
        )
    unknown = [c for c in asked if c >= len(manifest.classes)]
    if unknown:
        raise UnknownClassError.of(unknown[0], range(len(manifest.classes)))
    known = profile if profile is not None else bare_profile(manifest)
    if known.network_hash != manifest.network_hash:
        raise StoreError(
            f"expected a profile of network {manifest.network_hash}, got one of {known.network_hash}"
        )
    curves = class_curves(known, live, np.asarray(asked, dtype=np.int64))
    return {
        "model": manifest.model,
        "version": manifest.version,
        "network_hash": manifest.network_hash,
        "group": live.group,
        "as_of": live.as_of,
        "curves": [
            {
                "id": class_id,
                "label": manifest.classes[class_id],
                "curve": [
                    {
                        k: None if isinstance(v, float) and math.isnan(v) else v
                        for k, v in point._asdict().items()
                    }
                    for point in curve.points(known)
                ],
            }
            for class_id, curve in zip(asked, curves, strict=True)
        ],
    }
