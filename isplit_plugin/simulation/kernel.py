"""One simulation: devices, links and the server as processes of SimPy's discrete-event kernel.

A device works like the client: one photo at a time. A photo that arrives while the one before is not
finished waits, and its latency counts from its arrival. A request that the device does not wait for
any more goes on: its bytes keep the uplink busy, the server answers it, and the policy learns from
it, as in :class:`isplit_plugin.client.AdaptiveClient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..adaptive import MOST_IN_FLIGHT, Option
from ..schema import Cut
from .policies import Choice, Policy
from .processor import Processor
from .scenario import Scenario
from .server import Server

if TYPE_CHECKING:
    import simpy


class Device(NamedTuple):
    """A device of the simulation: its number, and where in the trace it starts, in milliseconds."""

    number: int
    offset_ms: float


PolicyFactory = Callable[[Device], Policy]
"""Makes the policy of one device."""

_ARRIVALS, _PLACE, _NOISE = range(3)
"""Set the random numbers of these apart."""

_Process = Generator["simpy.Event", Any, None]
_Asking = Generator["simpy.Event", Any, bool]


@dataclass(frozen=True, slots=True)
class Photo:
    """How one photo fared.

    Attributes:
        device: number of the device.
        arrived_ms: when it arrived.
        latency_ms: from its arrival to its answer.
        cut: the cut that was chosen.
        nbytes: bytes that were sent with it, also in vain and for probes.
        agreement: of the cut that answered, at least.
        hedged: whether the device answered because the server was late.
        exited: whether the exit of the cut answered.
    """

    device: int
    arrived_ms: float
    latency_ms: float
    cut: Cut
    nbytes: float
    agreement: float
    hedged: bool
    exited: bool = False


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


def simulate(scenario: Scenario, policy: PolicyFactory, *, repeat: int = 0) -> Run:
    """Run the scenario with one policy of each device. Equal arguments give equal results.

    ``repeat``: another number gives the same arrivals and other noise.
    """
    return _World(scenario).run(policy, repeat)


def arrivals_ms(scenario: Scenario, number: int = 0) -> list[float]:
    """When the photos of a device arrive: bursts at random, as a Poisson process."""
    random = np.random.default_rng([scenario.seed, number, _ARRIVALS])
    bursts = -(-scenario.photos // scenario.burst)
    gaps = random.exponential(1000 * scenario.burst / scenario.rate, bursts)
    times = np.repeat(np.cumsum(gaps), scenario.burst)
    return [float(time) for time in times[: scenario.photos]]


class _World:
    def __init__(self, scenario: Scenario) -> None:
        # Here, so that reports of other things do without SimPy.
        import simpy

        self.scenario = scenario
        self.env = simpy.Environment()
        self.server = Server(self.env, scenario)
        self.photos: list[Photo] = []

    def run(self, policy: PolicyFactory, repeat: int) -> Run:
        for number in range(self.scenario.devices):
            random = np.random.default_rng([self.scenario.seed, number, _NOISE + repeat])
            # Devices are at different places of the trace.
            place = np.random.default_rng([self.scenario.seed, number, _PLACE])
            offset_ms = 0.0 if number == 0 else float(place.uniform(0, 60_000))
            device = Device(number, offset_ms)
            self.env.process(_Worker(self, device, policy(device), random).work())
        self.env.run()
        span_ms = max(photo.arrived_ms + photo.latency_ms for photo in self.photos)
        return Run(tuple(self.photos), self.server.busy_ms, span_ms)


class _Worker:
    """One device at work."""

    def __init__(
        self, world: _World, device: Device, policy: Policy, random: np.random.Generator
    ) -> None:
        self._world = world
        self._env = world.env
        self._device = device
        self._policy = policy
        self._random = random
        self._queue = world.scenario.uplink.queue()
        self._options = {option.cut: option for option in world.scenario.options}
        self._in_flight = 0
        self._processor = Processor(self._env, world.scenario.cores)

    def work(self) -> _Process:
        env = self._env
        deadline_ms = self._world.scenario.deadline_ms
        for arrived_ms in arrivals_ms(self._world.scenario, self._device.number):
            yield env.timeout(max(0.0, arrived_ms - env.now))
            left_ms = None if deadline_ms is None else deadline_ms - (env.now - arrived_ms)
            choice = self._policy.choose(env.now, left_ms)
            option = self._options[choice.cut]
            probe_bytes = (
                0.0 if choice.link_probe is None else self._probe(self._options[choice.link_probe])
            )
            if option.is_local:
                yield from self._here(option)
                self._answer(arrived_ms, option, option, probe_bytes)
            elif choice.hedged_by is None:
                exited = yield from self._there(option)
                self._answer_there(arrived_ms, option, exited=exited)
            else:
                yield from self._hedged(arrived_ms, option, choice)

    def _here(self, option: Option, request: simpy.Process | None = None) -> _Process:
        """Run a head. Where the answer to ``request`` comes first, the rest is not run."""
        device_ms = self._noisy(option.device_ms, self._world.scenario.noise)
        run = self._processor.run(device_ms)
        yield run if request is None else run | request
        if run.triggered:
            self._policy.ran(option.cut, device_ms, self._env.now)
        else:
            self._processor.stop(run)

    def _there(self, option: Option, *, may_exit: bool = True) -> _Asking:
        """Head, request, answer; the policy learns from it.

        Returns whether an exit answered, so that there was no request.
        """
        env = self._env
        scenario = self._world.scenario
        started_ms = env.now
        yield from self._here(option)
        if may_exit and option.may_exit:
            exited = self._random.random() < option.exit_share
            self._policy.asked(option.cut, exited)
            if exited:
                return True
        sent_at_ms = env.now
        server_noise = scenario.noise if scenario.server_noise is None else scenario.server_noise
        server_ms = self._noisy(option.server_ms, server_noise)
        # The mean of a log-normal is above its median.
        nbytes = self._noisy(option.nbytes, scenario.byte_noise)
        nbytes *= math.exp(-(scenario.byte_noise**2) / 2)
        yield env.timeout(self._send_ms(nbytes) + scenario.rtt_ms / 2)
        arrived_ms = env.now
        yield self._world.server.serve(server_ms)
        queue_ms = max(env.now - arrived_ms - server_ms, 0.0)
        yield env.timeout(scenario.rtt_ms / 2)
        trips = 1
        if option.round_trips > 1 and self._random.random() < option.round_trips - 1:
            # A refining cut asks a second time. Its mean bytes are in the first request already.
            trips = 2
            yield env.timeout(scenario.rtt_ms)
        network_ms = max(env.now - sent_at_ms - queue_ms - server_ms, 1e-3) / trips
        self._policy.answered(
            nbytes / trips, network_ms, env.now - started_ms, env.now, queue_ms=queue_ms / trips
        )
        return False

    def _send_ms(self, nbytes: float) -> float:
        """Put bytes into the uplink's line. Returns how long they take from now on."""
        offset_ms = self._device.offset_ms
        sent_ms = self._queue.send(self._env.now + offset_ms, nbytes) - offset_ms
        return max(0.0, sent_ms - self._env.now)

    def _audit(self, option: Option) -> _Process:
        """Send a photo that an exit answered. Nobody waits for it, and no policy learns from it."""
        yield self._env.timeout(self._send_ms(option.nbytes) + self._world.scenario.rtt_ms / 2)
        yield self._world.server.serve(option.server_ms)

    def _hedged(self, arrived_ms: float, option: Option, choice: Choice) -> _Process:
        """Wait for the server as long as the patience lasts, then answer here if that is sooner."""
        env = self._env
        assert choice.hedged_by is not None  # noqa: S101  the caller has looked
        local = self._options[choice.hedged_by]
        started_ms = env.now
        if self._in_flight >= MOST_IN_FLIGHT:
            yield from self._here(local)
            self._answer(arrived_ms, local, local, 0.0)
            return
        request = self._submit(option)
        yield request | env.timeout(choice.patience_ms)
        if not request.processed:
            yield from self._here(local, request)
        if request.processed:
            self._answer_there(arrived_ms, option, exited=bool(request.value))
            return
        self._policy.late(option.nbytes, env.now - started_ms - option.device_ms, env.now)
        self._answer(arrived_ms, option, local, option.nbytes)

    def _probe(self, option: Option) -> float:
        """Send a request in the background. Returns its bytes, 0 while enough are under way."""
        if self._in_flight >= MOST_IN_FLIGHT:
            return 0.0
        self._submit(option, may_exit=False)
        return option.nbytes

    def _submit(self, option: Option, *, may_exit: bool = True) -> simpy.Process:
        self._in_flight += 1
        return self._env.process(self._landing(option, may_exit=may_exit))

    def _landing(self, option: Option, *, may_exit: bool) -> _Asking:
        exited = yield from self._there(option, may_exit=may_exit)
        self._in_flight -= 1
        return exited

    def _answer_there(self, arrived_ms: float, option: Option, *, exited: bool) -> None:
        """The server's answer, or that of the cut's exit, which may be audited."""
        if not exited or option.exit is None:
            self._answer(arrived_ms, option, option, option.nbytes)
            return
        nbytes = 0.0
        if self._random.random() < option.exit.audit_share:
            self._env.process(self._audit(option))
            nbytes = option.nbytes
        own = replace(option, agreement=option.agreement - option.exit.tolerance)
        self._answer(arrived_ms, option, own, nbytes, exited=True)

    def _answer(
        self,
        arrived_ms: float,
        chosen: Option,
        answered_by: Option,
        nbytes: float,
        *,
        exited: bool = False,
    ) -> None:
        self._world.photos.append(
            Photo(
                device=self._device.number,
                arrived_ms=arrived_ms,
                latency_ms=self._env.now - arrived_ms,
                cut=chosen.cut,
                nbytes=nbytes,
                agreement=answered_by.agreement,
                hedged=answered_by.cut != chosen.cut,
                exited=exited,
            )
        )

    def _noisy(self, value: float, noise: float) -> float:
        return float(value * np.exp(noise * self._random.standard_normal()))
