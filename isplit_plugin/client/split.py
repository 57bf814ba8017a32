"""The network in two parts: the head here, the tail on the server, unless an exit answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..image import Image
from ..schema import Cut, Prediction, Timings
from ..stopwatch import ms_since
from ..wire import FirstAnswer
from .exchange import Exchange, Exchanged
from .exits import DeviceExits, ExitWord, exit_prediction
from .local import EncodedImages, LocalNetwork
from .refining import refined


class SplitNetwork:
    """Classifies images at cuts that need the server. Several threads may use it.

    Parameters:
        local: the device's own part.
        exchange: makes the requests.
        exits: of this device, if it has any.
        exits_may_answer: whether an exit may answer; otherwise it says what it would have answered.
        call_s: seconds for all requests of one prediction.
    """

    def __init__(
        self,
        local: LocalNetwork,
        exchange: Exchange,
        exits: DeviceExits | None,
        *,
        exits_may_answer: bool,
        call_s: float,
    ) -> None:
        self._local = local
        self._exchange = exchange
        self._exits = exits
        self._exits_may_answer = exits_may_answer
        self._call_s = call_s

    def classify(
        self, images: Sequence[Image], cut: Cut, *, may_exit: bool = True
    ) -> list[Prediction]:
        """Run the head here and the tail on the server, unless an exit answers.

        A refining cut sends images again whose answers are not sure. Raises as
        :meth:`SplitClient.predict`.

        ``may_exit``: whether an exit may answer this time.
        """
        encoded = self._local.encode(images, cut)
        # An exit knows one coding of the activation.
        single = len(images) == 1 and not cut.is_refining
        word = None
        if single and self._exits is not None:
            started = time.perf_counter()
            word = self._ask_exit(self._exits, encoded, cut, may_exit=may_exit)
            encoded = replace(encoded, exit_ms=ms_since(started))
        if word is not None and word.answers:
            return [self._answer_by_exit(word, encoded, cut)]
        statement = None if word is None else str(word.statement)
        started = time.monotonic()
        sent = self._exchange.send(self._exchange.request(encoded, cut, statement), len(images))
        if self._exits is not None and not cut.is_refining:
            self._exits.note(cut, sent.answer.release)

        def send_again(again: EncodedImages, first: FirstAnswer) -> Exchanged:
            request = replace(self._exchange.request(again, cut, None), first=first)
            left_s = self._call_s - (time.monotonic() - started)
            return self._exchange.send(request, len(first.classes), within_s=left_s)

        return refined(sent, encoded, cut, self._local, send_again)

    def _ask_exit(
        self, exits: DeviceExits, encoded: EncodedImages, cut: Cut, *, may_exit: bool
    ) -> ExitWord | None:
        """What the exit of the cut says of a photo; ``None`` where there is none."""
        return exits.ask(
            cut,
            lambda: self._local.decoded(encoded.tensor, cut),
            may_answer=may_exit and self._exits_may_answer,
        )

    def _answer_by_exit(self, word: ExitWord, encoded: EncodedImages, cut: Cut) -> Prediction:
        """The exit's answer. An audit of it is sent in the background."""
        if word.audit and self._exits is not None:
            self._exits.audit(self._audit_of(word, encoded, cut), cut)
        timings = Timings(
            prepare_ms=encoded.prepare_ms,
            head_ms=encoded.head_ms,
            encode_ms=encoded.encode_ms,
            exit_ms=encoded.exit_ms,
        )
        return exit_prediction(word, self._local.required_manifest(), cut, timings)

    def _audit_of(self, word: ExitWord, encoded: EncodedImages, cut: Cut) -> Callable[[], str]:
        """Sends a photo that was answered here, and returns the release that it is told.

        The request is made when it is sent: a device's token that cannot be had costs the audit,
        and not the answer.
        """
        exchange, link = self._exchange, self._exchange.link
        kept = replace(encoded, activation=None)  # audits wait: none keeps what it does not send

        def send() -> str:
            request = exchange.request(kept, cut, str(word.statement), link=link)
            return exchange.send(request, 1).answer.release

        return send
