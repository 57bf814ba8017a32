"""Shell commands to try on a running server."""

from __future__ import annotations

from pathlib import Path


def curl_requests(url: str, key_path: Path | None) -> list[str]:
    """Commands that list the models, ask for a recommendation and classify a photo.

    Parameters:
        url: the server's inference address.
        key_path: the server's ``key_file.json``; ``None`` where it requires no token.
    """
    commands = []
    curl = "curl"
    if key_path is not None:
        code = f"import json; print(json.load(open('{key_path}'))['inference']['key'])"
        commands.append(f'TOKEN=$(python3 -c "{code}")')
        curl = 'curl -H "Authorization: Bearer $TOKEN"'
    return [
        *commands,
        f"{curl} {url}/predictions/isplit/1.0/models",
        f"{curl} {url}/predictions/isplit/1.0/recommendations/MODEL",
        f"{curl} -T photo.jpg {url}/predictions/MODEL        # the whole network on the server",
    ]
