"""The logic of ``handlers/recommendation_handler.py``: the endpoint `isplit`, which reads the store
and answers.

It is a TorchServe model of its own with one worker, so that a question never waits behind
predictions. It loads no network.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from ... import __version__
from ...advice import ALL_GROUPS, Query, SwitchingPolicy, has_standing_pick, recommend
from ...device_tokens import TokenVerifier
from ...errors import IsplitError, ProbeError, WireSizeError
from ...traffic import MAX_GROUPS, OTHER, ExitKeeper, Group, Store
from .. import replies
from ..optional import endpoint_parts
from ..settings import EndpointSettings, make_store_folder
from ..threads import use_one_blas_thread
from . import listings
from .body import json_body
from .cache import Cache
from .exits import cut_exits, list_exits, policy_of, read_exit, start_keeper
from .labels import read_labels, take_labels
from .question import Question, read_question
from .routes import help_page
from .snapshot import Snapshot
from .standing import standing_answer

_LOGGER = logging.getLogger(__name__)
MAX_ANSWER: Final = 6_000_000
"""Largest body of an answer, below TorchServe's default limit: a larger one would end the worker.
"""


class Endpoint:
    """The worker of the endpoint.

    A store that cannot be reached makes answers fail with 503, but never the worker.

    Parameters:
        context: TorchServe's, at load; its configuration becomes an :class:`EndpointSettings`.

    Raises:
        ServingError: the configuration has an unknown key or a value that cannot be used.
        SecretError: the operator's secret, or the list of revoked ids, cannot be used.
    """

    def __init__(self, context: Any) -> None:
        use_one_blas_thread()
        self._settings = settings = EndpointSettings.from_config(context.model_yaml_config)
        secret_file = settings.secret_file
        verifier = None if secret_file is None else TokenVerifier.from_file(secret_file)
        self._parts = endpoint_parts(settings, verifier)
        self._policy = SwitchingPolicy(settings.min_gain, settings.dwell_s)
        self._keeper, self._keeper_error = _start_keeper(settings)
        self._store: Store | None = None
        self._cache = Cache()
        self._counts: dict[str, int] = defaultdict(int)

    def handle(self, data: Sequence[Mapping[Any, Any]], context: Any) -> list[str]:
        """Answer a batch: one JSON body for each request, status and headers in ``context``.

        Raises nothing.
        """
        return [self._handle_row(index, row, context) for index, row in enumerate(data)]

    def describe(self) -> dict[str, Any]:
        """A status from memory alone."""
        return {
            "endpoint": "isplit",
            "version": __version__,
            "answers": dict(self._counts),
            "cached": len(self._cache),
            "cached_bytes": self._cache.nbytes,
            "exits": self._keeper_error or ("on" if self._keeper is not None else "off"),
        }

    def answer(self, question: Question) -> str:
        """The JSON body for one question. Raises the errors of :mod:`isplit_plugin.errors` only.

        While nothing is written to the store, a question that was asked before costs one read, of
        the revision.
        """
        if question.topic == "help":
            return _dump(help_page())
        store = self._open()
        with ExitStack() as reading:
            reading.enter_context(store.reading())
            snapshot = Snapshot(store, self._cache)
            return self._cache.get(
                ("answer", question.key()),
                snapshot.version,
                lambda: _bounded(_dump(self._compute(store, snapshot, question, reading))),
                len,
            )

    def close(self) -> None:
        """Stop the keeper of exits, and close the store."""
        if self._keeper is not None:
            self._keeper.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _handle_row(self, index: int, row: Mapping[Any, Any], context: Any) -> str:
        try:
            headers = replies.request_headers(context, index)
            if replies.is_describe(row, headers):
                return replies.json_answer(context, index, self.describe())
            text = self._dispatch(row, headers)
            context.set_response_content_type(index, replies.JSON_TYPE)
            self._counts["answered"] += 1
            return text
        except Exception as error:
            text, code = replies.error_answer(context, index, error)
            self._counts[code] += 1
            return text

    def _dispatch(self, row: Mapping[Any, Any], headers: Mapping[str, str]) -> str:
        """Parse the body once, and answer what it is: a part's field, labels, or a question."""
        body = json_body(row)
        for field, part in self._parts.items():
            if body is not None and field in body:
                if len(body) > 1:
                    others = ", ".join(sorted(str(name) for name in body if name != field))
                    raise ProbeError(f"expected the field {field!r} alone, got also {others:.200}")
                return _dump(part.answer(self._open(), body[field]))
        if body is not None and "probe" in body:
            raise ProbeError(
                "probes need the operator's secret (ISPLIT_SECRET_FILE), and this endpoint has none"
            )
        if body is not None and "labels" in body:
            call = read_labels(body, headers)
            return _dump(take_labels(self._open(), self._settings.label_secret_file, call))
        return self.answer(read_question(row, headers, body))

    def _open(self) -> Store:
        if self._store is None:
            make_store_folder(self._settings.store)
            self._store = Store(self._settings.store)
        return self._store

    def _compute(
        self, store: Store, snapshot: Snapshot, question: Question, reading: ExitStack
    ) -> dict[str, Any]:
        """The body of an answer. ``reading``: the transaction of the snapshot."""
        if question.topic == "models":
            return listings.models(store.networks(), question.model)
        manifest = snapshot.manifest(question.model, question.version, question.network_hash)
        query = question.query
        if question.topic == "groups" or query.group != ALL_GROUPS:
            groups = snapshot.groups(manifest.network_hash)
            if question.topic == "groups":
                return listings.groups(manifest, groups)
            query = _in_counted_group(query, groups)
        if question.topic == "changes":
            return listings.changes(manifest, query.group, store.changes(manifest, query.group))
        profile = snapshot.profile(manifest.network_hash)
        if question.topic == "recommendations" and has_standing_pick(query):
            standing = snapshot.standing(manifest, query.group)
            exits = cut_exits(store.exits, manifest.network_hash)
            reading.close()  # a change of the pick is written, and read again
            answer = standing_answer(
                store, manifest, profile, query, self._policy, snapshot=standing
            )
            return replace(answer, exits=exits).to_json()
        if question.exit:
            content = question.topic == "exit"
            return read_exit(store.exits, manifest, question.exit, content=content)
        live = snapshot.view(manifest.network_hash, query.group)
        if question.topic == "exits":
            signing = self._keeper is not None
            return list_exits(
                store.exits, manifest, live, policy_of(self._settings), signing=signing
            )
        if question.topic == "accuracy":
            return listings.accuracy(manifest, live, query.classes)
        if question.topic == "classes":
            return listings.classes(manifest, live)
        if question.topic == "curves":
            return listings.curves(manifest, profile, live, query.classes)
        exits = cut_exits(store.exits, manifest.network_hash)
        return replace(recommend(manifest, profile, live, query), exits=exits).to_json()


def _in_counted_group(query: Query, groups: Sequence[Group]) -> Query:
    """The query for the group that its devices are counted in.

    ``other`` where the cap on unsigned groups is reached.
    """
    names = {group.name for group in groups}
    if query.group in names:
        return query
    unsigned = {group.name for group in groups if not group.signed} - {OTHER, ALL_GROUPS}
    full = OTHER in names and len(unsigned) >= MAX_GROUPS
    return replace(query, group=OTHER) if full else query


def _start_keeper(settings: EndpointSettings) -> tuple[ExitKeeper | None, str]:
    """The keeper of exits, or why there is none: questions are answered without one, too."""
    try:
        return start_keeper(settings), ""
    except (IsplitError, ImportError) as error:
        text = error.message if isinstance(error, IsplitError) else str(error)
        _LOGGER.error("isplit: no exits are made: %s", replies.one_line(text))
        return None, f"off: {type(error).__name__}"


def _bounded(text: str) -> str:
    if len(text) > MAX_ANSWER:
        raise WireSizeError(
            f"the answer takes {len(text)} bytes, at most {MAX_ANSWER}: ask for fewer classes"
        )
    return text


def _dump(body: Mapping[str, Any]) -> str:
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise IsplitError("the answer holds a value that JSON cannot carry") from error
