"""The endpoint's listing of exits, made up: for what shows it to people."""

from __future__ import annotations

from typing import Any


def of_class(label: str, **changes: Any) -> dict[str, Any]:
    row = {
        "label": label,
        "state": "shadow",
        "shadow": 100,
        "missing": 300,
        "proof": 0.25,
        "share": 0.0,
        "exits": 0.0,
        "bytes_saved": 0.0,
        "ms_saved": 0.0,
        "audited": 0,
        "disagreement": None,
        "disagreement_low": 0.0,
        "disagreement_high": 1.0,
    }
    return row | changes


RELEASED = of_class(
    "cat <tabby>",
    state="released",
    missing=0,
    proof=1.0,
    share=0.75,
    exits=2000.4,
    bytes_saved=3.5e6,
    ms_saved=62_000.0,
    audited=200,
    disagreement=0.005,
    disagreement_low=0.001,
    disagreement_high=0.02,
)


def listing(*cuts: dict[str, Any], signing: bool = True) -> dict[str, Any]:
    about = {"model": "toy", "version": "1.0", "tolerance": 0.01, "promise": "together"}
    about |= {"alpha": 0.05}
    return {**about, "signing": signing, "exits": list(cuts)}


def cut(*classes: dict[str, Any]) -> dict[str, Any]:
    version = {
        "exit": "a" * 64,
        "state": "alive",
        "release": 3,
        "released_until": 1_800_000_000.0,
        "share": 0.4,
        "classes": list(classes),
    }
    evidence = {
        "label": "dog",
        "photos": 40,
        "devices": 3,
        "missing_photos": 60,
        "missing_devices": 17,
    }
    versions = [version] if classes else []
    return {"cut": "layer2:dct@3", "photos": 140, "evidence": [evidence], "versions": versions}
