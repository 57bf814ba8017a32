"""One simulation: devices, links and the server as processes of SimPy's discrete-event kernel.

A device works like ``SplitClient.predict``: one photo at a time. A photo that arrives while the one
before is not finished waits, and its latency counts from its arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adaptive import Option
from ..schema import Cut
from .policies import Choice, Policy
from .scenario import Scenario

if TYPE_CHECKING:
    import simpy

PolicyFactory = Callable[[float], Policy]
"""Makes the policy of one device, from its offset in the trace in milliseconds."""

_Process = Generator["simpy.Event", Any, None]


@dataclass(frozen=True, slots=True)
class Photo:
    """How one photo fared.

    Attributes:
        device: number of the device.
        arrived_ms: when it arrived.
        latency_ms: from its arrival to its answer.
        cut: the cut that was chosen.
        nbytes: bytes that were sent for it, also in vain.
        agreement: of the cut that answered.
        hedged: whether the device answered because the server was late.
    """

    device: int
    arrived_ms: float
    latency_ms: float
    cut: Cut
    nbytes: float
    agreement: float
    hedged: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one simulation.

    Attributes:
        photos: in the order of their answers.
        busy_ms: time that the workers of the server worked.
        span_ms: time from the first arrival to the last answer.
    """

    photos: tuple[Photo, ...]
    busy_ms: float
    span_ms: float


def simulate(scenario: Scenario, policy: PolicyFactory) -> Run:
    """Run the scenario with one policy of each device. Equal arguments give equal results."""
    return _World(scenario).run(policy)


class _World:
    def __init__(self, scenario: Scenario) -> None:
        # Here, so that reports of other things do without SimPy.
        import simpy

        self._scenario = scenario
        self._env = simpy.Environment()
        self._server = simpy.Resource(self._env, capacity=scenario.workers)
        self._photos: list[Photo] = []
        self._busy_ms = 0.0

    def run(self, policy: PolicyFactory) -> Run:
        for device in range(self._scenario.devices):
            random = np.random.default_rng([self._scenario.seed, device])
            # Devices are at different places of the trace.
            offset_ms = 0.0 if device == 0 else float(random.uniform(0, 60_000))
            self._env.process(_Device(self, device, policy(offset_ms), offset_ms, random).work())
        self._env.run()
        return Run(tuple(self._photos), self._busy_ms, float(self._env.now))

    @property
    def env(self) -> simpy.Environment:
        return self._env

    @property
    def scenario(self) -> Scenario:
        return self._scenario

    def finished(self, photo: Photo) -> None:
        self._photos.append(photo)

    def serve(self, server_ms: float) -> _Process:
        """Wait for a worker, then occupy it."""
        with self._server.request() as turn:
            yield turn
            yield self._env.timeout(server_ms)
            self._busy_ms += server_ms


class _Device:
    def __init__(
        self,
        world: _World,
        number: int,
        policy: Policy,
        offset_ms: float,
        random: np.random.Generator,
    ) -> None:
        self._world = world
        self._number = number
        self._policy = policy
        self._offset_ms = offset_ms
        self._random = random

    def work(self) -> _Process:
        env = self._world.env
        for arrived_ms in self._arrivals():
            yield env.timeout(max(0.0, arrived_ms - env.now))
            deadline_ms = self._world.scenario.deadline_ms
            left_ms = None if deadline_ms is None else deadline_ms - (env.now - arrived_ms)
            choice = self._policy.choose(env.now, left_ms)
            if choice.option.is_local:
                yield env.timeout(self._noisy(choice.option.device_ms))
                self._answer(arrived_ms, choice.option, choice.option)
            else:
                yield from self._remote(arrived_ms, choice)

    def _remote(self, arrived_ms: float, choice: Choice) -> _Process:
        env = self._world.env
        option = choice.option
        patience_ends_ms = env.now + choice.patience_ms
        yield env.timeout(self._noisy(option.device_ms))
        sent_at_ms = env.now
        server_ms = self._noisy(option.server_ms)
        request = env.process(self._request(option, server_ms))
        if choice.local is None:
            yield request
        else:
            yield request | env.timeout(max(0.0, patience_ends_ms - env.now))
            if not request.processed:
                yield request | env.timeout(self._noisy(choice.local.device_ms))
        if request.processed or choice.local is None:
            network_ms = max(env.now - sent_at_ms - server_ms, 1e-3)
            self._policy.answered(option, network_ms, env.now)
            self._answer(arrived_ms, option, option)
            return
        request.interrupt()
        self._policy.given_up(option, env.now - sent_at_ms, env.now)
        self._answer(arrived_ms, option, choice.local)

    def _request(self, option: Option, server_ms: float) -> _Process:
        from simpy import Interrupt

        env = self._world.env
        scenario = self._world.scenario
        try:
            start_ms = env.now + self._offset_ms
            sent_ms = scenario.uplink.finish_ms(start_ms, option.nbytes) - self._offset_ms
            yield env.timeout(max(0.0, sent_ms - env.now) + scenario.rtt_ms / 2)
            # The server works on, whether or not the device still waits.
            yield env.process(self._world.serve(server_ms))
            yield env.timeout(scenario.rtt_ms / 2)
        except Interrupt:
            return

    def _answer(self, arrived_ms: float, chosen: Option, answered_by: Option) -> None:
        self._world.finished(
            Photo(
                device=self._number,
                arrived_ms=arrived_ms,
                latency_ms=self._world.env.now - arrived_ms,
                cut=chosen.cut,
                nbytes=chosen.nbytes,
                agreement=answered_by.agreement,
                hedged=answered_by is not chosen,
            )
        )

    def _arrivals(self) -> list[float]:
        """Poisson arrivals of bursts."""
        scenario = self._world.scenario
        bursts = -(-scenario.photos // scenario.burst)
        gaps = self._random.exponential(1000 * scenario.burst / scenario.rate, bursts)
        times = np.repeat(np.cumsum(gaps), scenario.burst)
        return [float(time) for time in times[: scenario.photos]]

    def _noisy(self, ms: float) -> float:
        return float(ms * np.exp(self._world.scenario.noise * self._random.standard_normal()))
