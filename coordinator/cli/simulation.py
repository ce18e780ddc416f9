"""`sideways ticks --simulate`: what the pipeline of coordinator/tools/simulate.py is made of, and how it is shown."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config.run_file import apply
from common.config.settings import Config
from common.errors import ConfigError
from coordinator.run.setup.edge_ticks import edge_ticks
from coordinator.tools.simulate import Host, Link, Pace, simulate

if TYPE_CHECKING:
    from rich.console import Console

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Loss = Annotated[float, Field(ge=0, le=0.5)]


class Times(BaseModel):
    """What `--simulate KEY=VALUE` says. Each value is a number, or a list of one for each stage, or for each edge."""

    model_config = ConfigDict(extra="forbid")

    compute: Positive | list[Positive | tuple[Positive, Positive, Amount]] = Field(
        description="ms of a stage's tick, a third of it in the forward pass; in a list also [forward, backward, "
        "update]"
    )
    variation: Share | list[Share] = Field(0.0, description="standard deviation of a stage's compute, as a share")
    rate: Positive | list[Positive] = Field(1e6, description="Mbit/s that a stage's host can send")
    delay: Amount | list[Amount] = Field(0.0, description="ms from one neighbour to the other")
    jitter: Amount | list[Amount] = Field(0.0, description="ms that come on top, on average")
    loss: Loss | list[Loss] = Field(0.0, description="share of TCP segments lost on an edge, at most a half")
    size: Amount | list[Amount] = Field(0.0, description="KiB of an edge's activation, and of its gradient")
    ticks: int = Field(400, ge=1, le=10_000, description="ticks to simulate")
    seed: int = Field(0, ge=0, description="of what is drawn by chance")

    def hosts(self, stages: int) -> list[Host]:
        """The stages. Raises ConfigError."""
        computes = _each("compute", self.compute, stages)
        variations, rates = _each("variation", self.variation, stages), _each("rate", self.rate, stages)
        return [
            Host(*_passes(compute), variation, rate * 1e6 / 8)
            for compute, variation, rate in zip(computes, variations, rates, strict=True)
        ]

    def links(self, config: Config, hosts: Sequence[Host]) -> list[Link]:
        """The edges, with as many ticks as the configuration says. Raises ConfigError."""
        edges = config.stages - 1
        values = [_each(name, getattr(self, name), edges) for name in ("delay", "jitter", "loss", "size")]
        links = [
            Link(1, delay / 1e3, jitter / 1e3, loss, round(size * 1024))
            for delay, jitter, loss, size in zip(*values, strict=True)
        ]
        if config.network.edge_ticks == "auto":
            return _with_auto_ticks(links, hosts)
        ticks = config.edge_ticks or (1,) * edges
        return [replace(link, ticks=each) for each, link in zip(ticks, links, strict=True)]


def times(values: Sequence[str]) -> Times:
    """What the command line says: KEY=VALUE each. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for value in values:
        apply(value, tree, "--simulate")
    try:
        return Times.model_validate(tree)
    except ValidationError as error:
        known = "".join(f"\n  {name}: {field.description}" for name, field in Times.model_fields.items())
        problem = error.errors()[0]
        raise ConfigError(f"--simulate {problem['loc'][0]}: {problem['msg'].lower()}. It takes{known}") from error


def run(values: Sequence[str], config: Config) -> tuple[list[Link], Pace]:
    """Simulate the pipeline. Raises ConfigError."""
    told = times(values)
    hosts = told.hosts(config.stages)
    links = told.links(config, hosts)
    return links, simulate(hosts, links, told.ticks, told.seed)


def show(links: Sequence[Link], pace: Pace, console: "Console") -> None:
    """Print a table of the stages."""
    from rich.table import Table

    table = Table(title=f"a tick takes {1e3 * pace.tick:.3g} ms: {1 / pace.tick:.3g} ticks/s")
    for name in ("stage", "idle", "mismatch", "ticks of the edge above"):
        table.add_column(name, justify="right")
    for stage, (idle, mismatch) in enumerate(zip(pace.idle, pace.mismatch, strict=True)):
        edge = str(links[stage].ticks) if stage < len(links) else ""
        table.add_row(str(stage), f"{idle:.1%}", str(mismatch), edge)
    console.print(table)


def tree(links: Sequence[Link], pace: Pace) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "tick_ms": 1e3 * pace.tick,
        "ticks_per_second": 1 / pace.tick,
        "idle": pace.idle,
        "mismatch": pace.mismatch,
        "edge_ticks": [link.ticks for link in links],
    }


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value for each stage or edge."""
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise ConfigError(f"--simulate {name} has {len(values)} values for {count}: give one for each, or one for all")
    return values


def _passes(compute: float | tuple[float, float, float]) -> tuple[float, float, float]:
    """Seconds of forward, backward and update, from ms."""
    forward, backward, update = compute if isinstance(compute, tuple) else (compute / 3, compute * 2 / 3, 0.0)
    return forward / 1e3, backward / 1e3, update / 1e3


def _with_auto_ticks(links: Sequence[Link], hosts: Sequence[Host]) -> list[Link]:
    """As the run itself measures it, about: a round trip, halved."""
    tick = max(host.compute for host in hosts)
    rates = [min(below.rate, above.rate) for below, above in pairwise(hosts)]
    delays = [link.delay + link.jitter + link.size / rate for link, rate in zip(links, rates, strict=True)]
    return [replace(link, ticks=edge_ticks(delay, tick)) for link, delay in zip(links, delays, strict=True)]
