"""Any number of generators with continuous batching, as discrete events, carrying out the real machine's decisions.

A generator runs n sequences together, each a token further after

    t(n) = step_base_s + step_per_sequence_s * n        seconds, n <= max_num_seqs; the rest queue

(reading the weights costs the same for any n; the cache of each sequence comes on top). Between events nothing changes,
so a generator is a clock that counts tokens per sequence: an event costs O(log n) however long the responses are.
Whole tokens are not rounded, prefill is free, and weights are not loaded: this is the generation of one batch.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from v05ray.budget import BatchMachine
from v05ray.errors import ConfigError
from v05ray.simulate.worlds import Responses
from v05ray.types import Decision, Draw, Stop


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines, and how work is placed on them."""

    num_generators: int = 8
    step_base_s: float = 0.02
    step_per_sequence_s: float = 0.0002
    max_num_seqs: int = 128
    verify_s: float = 0.05
    """From a draw's last token to its reward."""
    max_tokens: int = 16_384
    """What the scheduler has to expect of a response: it cannot know the length."""
    placement: Literal["together", "split"] = "together"
    """Each draw whole on the generator with the fewest outstanding tokens, as the pool does; or rollout by rollout."""
    queue: Literal["fifo", "topups_first"] = "fifo"
    """What takes a free slot: the first to arrive, or top-ups before cold starts (long chains end sooner)."""

    def __post_init__(self) -> None:
        if self.num_generators < 1 or self.max_num_seqs < 1 or self.max_tokens < 1:
            raise ConfigError(f"a cluster needs >= 1 generator, sequence and token, got {self}")
        if self.step_base_s < 0 or self.step_per_sequence_s < 0 or self.verify_s < 0:
            raise ConfigError(f"a cluster's times must be >= 0, got {self}")
        if self.step_base_s + self.step_per_sequence_s == 0:
            raise ConfigError("a token must take time; set step_base_s or step_per_sequence_s above 0")

    def step_s(self, num_sequences: float) -> float:
        """t(n), seconds per token of each of n sequences."""
        return self.step_base_s + self.step_per_sequence_s * num_sequences


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one batch, and their lower bounds."""

    makespan_s: float
    """From the first draw to the last reward."""
    idle_share: float
    """Share of the generators' time, until the makespan, in which one had nothing to run."""
    num_rollouts: int
    num_tokens: int
    work_bound_s: float
    """Total work / capacity: no schedule can be faster, see `lower_bounds`."""
    chain_bound_s: float
    """The longest chain of one prompt's draws, each waiting for the last one's rewards, on empty generators."""

    @property
    def bound_s(self) -> float:
        """The greater of the two bounds: no schedule is faster."""
        return max(self.work_bound_s, self.chain_bound_s)

    @property
    def over_bound(self) -> float:
        """makespan / bound, >= 1."""
        return self.makespan_s / self.bound_s


@dataclass(frozen=True, slots=True)
class Played:
    """A batch from its start to its end."""

    timing: Timing
    rollouts: dict[str, list[tuple[float, int]]]
    """(reward, tokens) of every scored rollout, in sample order, by prompt id."""
    decisions: list[Decision]


@dataclass(slots=True, eq=False)
class _Job:
    """One draw: its rollouts are reported together, when the last one is done."""

    prompt_id: str
    indices: range
    num_running: int
    parts: list[tuple["_Generator", int]] = field(default_factory=list)
    """(generator, tokens to take off its outstanding ones)."""
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Generator:
    number: int
    tokens_each: float = 0.0
    """Tokens that a sequence running since the beginning would have."""
    since: float = 0.0
    """When `tokens_each` was true."""
    running: list[tuple[float, int, _Job]] = field(default_factory=list)
    """Heap of (tokens_each at its end, tie breaker, job)."""
    waiting: deque[tuple[int, _Job]] = field(default_factory=deque)
    """(tokens, job)."""
    plan: int = 0
    """Number of the newest plan for the next event; older events are void."""
    outstanding_tokens: int = 0
    busy_s: float = 0.0


class _Run:
    """The state of one simulated batch."""

    def __init__(self, machine: BatchMachine, responses: Responses, cluster: Cluster) -> None:
        self.machine, self.responses, self.cluster = machine, responses, cluster
        self.now = 0.0
        self.generators = [_Generator(i) for i in range(cluster.num_generators)]
        self.queues = [
            (0, g.number) for g in self.generators
        ]  # heap of (outstanding tokens, number), stale entries kept
        self.events: list[tuple[float, int, _Generator | None, int, _Job | None]] = []
        self.ticket = 0
        self.num_drawn: dict[str, int] = {}
        self.last: dict[str, _Generator] = {}
        self.jobs: dict[str, _Job] = {}
        self.scored: dict[str, list[tuple[float, int]]] = {}
        self.chains: dict[str, float] = {}
        self.decisions: list[Decision] = []

    def play(self) -> Played:
        """Event by event until every prompt is sealed."""
        self.carry_out(self.machine.start())
        while self.events:
            self.now, _, generator, plan, job = heapq.heappop(self.events)
            if generator is not None:
                if plan == generator.plan:
                    self.advance(generator)
                    self.finish(generator)
            elif job is not None and not job.cancelled:
                self.score(job)
            if self.machine.done:
                break
        return Played(self.timing(), self.scored, self.decisions)

    def carry_out(self, decisions: Iterable[Decision]) -> None:
        touched: dict[int, _Generator] = {}
        for decision in decisions:
            self.decisions.append(decision)
            match decision.action:
                case Draw(prompt_id, count):
                    start = self.num_drawn.get(prompt_id, 0)
                    self.num_drawn[prompt_id] = start + count
                    self.place(_Job(prompt_id, range(start, start + count), count), touched)
                case Stop(prompt_id):
                    self.abort(prompt_id, touched)
        for generator in touched.values():
            self.replan(generator)

    def place(self, job: _Job, touched: dict[int, _Generator]) -> None:
        self.jobs[job.prompt_id] = job
        split = self.cluster.placement == "split"
        lengths = [self.responses.get(job.prompt_id, index)[1] for index in job.indices]
        longest = max(lengths) * self.cluster.step_s(1) + self.cluster.verify_s
        self.chains[job.prompt_id] = self.chains.get(job.prompt_id, 0.0) + longest
        for part in [[tokens] for tokens in lengths] if split else [lengths]:
            generator = self.least_loaded(None if split else self.last.get(job.prompt_id))
            self.last[job.prompt_id] = generator
            expected = len(part) * self.cluster.max_tokens
            self.add_outstanding(generator, expected)
            job.parts.append((generator, expected))
            self.advance(generator)
            if self.cluster.queue == "topups_first" and job.indices.start > 0:
                generator.waiting.extendleft((tokens, job) for tokens in reversed(part))
            else:
                generator.waiting.extend((tokens, job) for tokens in part)
            touched[generator.number] = generator

    def least_loaded(self, prefer: _Generator | None) -> _Generator:
        while True:
            load, number = self.queues[0]
            least = self.generators[number]
            if load == least.outstanding_tokens:
                break
            heapq.heapreplace(self.queues, (least.outstanding_tokens, number))
        return prefer if prefer is not None and prefer.outstanding_tokens <= least.outstanding_tokens else least

    def add_outstanding(self, generator: _Generator, tokens: int) -> None:
        generator.outstanding_tokens += tokens
        if tokens < 0:  # a load that grew is corrected when it comes to the top
            heapq.heappush(self.queues, (generator.outstanding_tokens, generator.number))

    def advance(self, generator: _Generator) -> None:
        """Bring the generator's clock to now."""
        elapsed, generator.since = self.now - generator.since, self.now
        if generator.running:
            generator.tokens_each += elapsed / self.cluster.step_s(len(generator.running))
            generator.busy_s += elapsed

    def replan(self, generator: _Generator) -> None:
        """Fill free slots, and say when the next sequence ends."""
        while generator.waiting and len(generator.running) < self.cluster.max_num_seqs:
            tokens, job = generator.waiting.popleft()
            self.ticket += 1
            heapq.heappush(generator.running, (generator.tokens_each + tokens, self.ticket, job))
        generator.plan += 1
        if generator.running:
            left = max(0.0, generator.running[0][0] - generator.tokens_each)
            self.push(left * self.cluster.step_s(len(generator.running)), generator, generator.plan, None)

    def push(self, after_s: float, generator: _Generator | None, plan: int, job: _Job | None) -> None:
        self.ticket += 1
        heapq.heappush(self.events, (self.now + after_s, self.ticket, generator, plan, job))

    def finish(self, generator: _Generator) -> None:
        """The sequence that this event is about has ended; those equal to it but for rounding too."""
        end = generator.running[0][0]
        generator.tokens_each = max(generator.tokens_each, end)
        while generator.running and generator.running[0][0] <= end + 1e-6:
            job = heapq.heappop(generator.running)[2]
            job.num_running -= 1
            if job.num_running == 0:
                for part, tokens in job.parts:
                    self.add_outstanding(part, -tokens)
                self.push(self.cluster.verify_s, None, 0, job)
        self.replan(generator)

    def score(self, job: _Job) -> None:
        del self.jobs[job.prompt_id]
        rollouts = self.scored.setdefault(job.prompt_id, [])
        for index in job.indices:
            reward, tokens = self.responses.get(job.prompt_id, index)
            rollouts.append((reward, tokens))
            self.carry_out(self.machine.observe(job.prompt_id, reward, num_tokens=tokens))

    def abort(self, prompt_id: str, touched: dict[int, _Generator]) -> None:
        """After a Stop nothing of the prompt runs on: only `on_halt: abort` leaves anything in flight."""
        job = self.jobs.pop(prompt_id, None)
        if job is None:
            return
        job.cancelled = True
        for generator, tokens in job.parts if job.num_running else []:
            self.add_outstanding(generator, -tokens)
            self.advance(generator)
            generator.running = [entry for entry in generator.running if entry[2] is not job]
            heapq.heapify(generator.running)
            generator.waiting = deque(entry for entry in generator.waiting if entry[1] is not job)
            touched[generator.number] = generator

    def timing(self) -> Timing:
        num_rollouts = sum(len(rollouts) for rollouts in self.scored.values())
        num_tokens = sum(tokens for rollouts in self.scored.values() for _, tokens in rollouts)
        busy = sum(generator.busy_s for generator in self.generators)
        return Timing(
            makespan_s=self.now,
            idle_share=1 - busy / (self.now * len(self.generators)) if self.now else 0.0,
            num_rollouts=num_rollouts,
            num_tokens=num_tokens,
            work_bound_s=work_bound_s(self.cluster, num_rollouts, num_tokens),
            chain_bound_s=max(self.chains.values()),
        )


def work_bound_s(cluster: Cluster, num_rollouts: int, num_tokens: int) -> float:
    """Total work / capacity, were every generator as full as the batch's own rollouts can keep it, to the end.

    G generators with n sequences each make G n / t(n) tokens a second, most at n = min(max_num_seqs, rollouts / G).
    """
    at_work = min(cluster.num_generators, num_rollouts)
    num_sequences = min(float(cluster.max_num_seqs), num_rollouts / at_work)
    return num_tokens * cluster.step_s(num_sequences) / (num_sequences * at_work)


def play(machine: BatchMachine, responses: Responses, cluster: Cluster) -> Played:
    """Run a fresh machine's batch on the cluster. Deterministic."""
    return _Run(machine, responses, cluster).play()
