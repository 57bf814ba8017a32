"""The second request of a refining cut, for the images whose first answer is not sure."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import IsplitError
from ..schema import Cut, Prediction, Timings
from ..stopwatch import ms_since
from ..wire import FirstAnswer, TailResponse
from .answers import predictions, share
from .exchange import Exchanged
from .local import EncodedImages, LocalNetwork

_LOGGER = logging.getLogger("isplit.client")

Send = Callable[[EncodedImages, FirstAnswer], Exchanged]
"""Sends the second request. Raises as :meth:`SplitClient.predict`."""


def refined(
    first: Exchanged, encoded: EncodedImages, cut: Cut, local: LocalNetwork, send: Send
) -> list[Prediction]:
    """The predictions of all images, those of unsure ones from a second request.

    Where that one fails, for whatever reason, the first answers stand, and say that they are not
    sure: the photo has an answer, and the next photo's first request raises what lasts.
    """
    sent, received = first.bytes_sent, first.bytes_received
    timings = first.timings(encoded)
    answered = predictions(first.answer, cut, timings, bytes_sent=sent, bytes_received=received)
    items = first.answer.refine
    if not items or encoded.activation is None:
        return answered
    again = EncodedImages(encoded.tensor, head_ms=encoded.head_ms * len(items) / len(answered))
    started = time.perf_counter()
    try:
        tensor = local.encode_activation(encoded.activation[list(items)], cut.second)
        again = replace(again, tensor=tensor, encode_ms=ms_since(started))
        second = send(again, _first_answer(first, items, len(answered)))
    except IsplitError as error:
        _LOGGER.warning("the first answer stands: no second one (%s)", error.code)
        lost_ms = ms_since(started) - again.encode_ms
        lost = Timings(encode_ms=again.encode_ms, round_trip_ms=lost_ms)
        return _unsure(answered, first.answer, _sum(timings, lost))
    total = _sum(timings, replace(second.timings(again), head_ms=0.0))
    finer = predictions(
        second.answer,
        cut,
        total,
        bytes_sent=second.bytes_sent,
        bytes_received=second.bytes_received,
    )
    result = [replace(prediction, timings=total) for prediction in answered]
    for item, prediction in zip(items, finer, strict=True):
        result[item] = replace(
            prediction,
            bytes_sent=prediction.bytes_sent + answered[item].bytes_sent,
            bytes_received=prediction.bytes_received + answered[item].bytes_received,
            round_trips=2,
        )
    return result


def _first_answer(first: Exchanged, items: Sequence[int], images: int) -> FirstAnswer:
    answer = first.answer
    return FirstAnswer(
        nbytes=sum(share(first.bytes_sent, images, item) for item in items),
        classes=tuple(int(answer.top_class[item, 0]) for item in items),
        audited=tuple(number for number, item in enumerate(items) if item in answer.audit),
    )


def _unsure(
    answered: Sequence[Prediction], answer: TailResponse, timings: Timings
) -> list[Prediction]:
    unsure = {*answer.refine} - {*answer.audit}
    return [
        replace(prediction, timings=timings, is_sure=number not in unsure)
        for number, prediction in enumerate(answered)
    ]


def _sum(first: Timings, second: Timings) -> Timings:
    return Timings(
        *(math.fsum((getattr(first, name), getattr(second, name))) for name in Timings.__slots__)
    )
