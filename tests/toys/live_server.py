"""What the tests of tests/e2e share: the models that are served, and the running server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import Profile
from isplit_plugin.schema import Manifest
from isplit_plugin.serving.launcher import TorchServe
from isplit_plugin.serving.packaging import Built
from isplit_plugin.wire import HEADER, TailRequest, TailResponse, decode_response, http_headers


@dataclass(frozen=True)
class Model:
    """A network that is served, and what it was packaged into."""

    net: CapturedNetwork
    profile: Profile
    built: Built

    @property
    def manifest(self) -> Manifest:
        return self.built.manifest


@dataclass(frozen=True)
class Live:
    """The running server and what a device needs to talk to it."""

    server: TorchServe
    store_url: str
    toy: Model
    resnet: Model
    label_secret: str = ""

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.server.token()}", **options.pop("headers", {})}
        return requests.post(
            f"{self.server.inference_url}/{path}", data=data, headers=headers, timeout=60, **options
        )

    def get(self, path: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.server.token()}"}
        return requests.get(f"{self.server.inference_url}/{path}", headers=headers, timeout=60)

    def send(
        self, model: str, request: TailRequest, *, kind: str = "predictions"
    ) -> requests.Response:
        body, length = request.encode()
        return self.post(f"{kind}/{model}", body, headers=http_headers(length))

    def predict(self, model: str, request: TailRequest) -> TailResponse:
        answer = self.send(model, request)
        assert answer.status_code == 200, answer.text
        length = answer.headers.get(HEADER)
        return decode_response(answer.content, int(length) if length else None)

    def worker_pids(self, model: str) -> tuple[int, ...]:
        return self.server.status(model).pids
