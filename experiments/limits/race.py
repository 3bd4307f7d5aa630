"""What every case is made of: programs timed in turn for a unit of work."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from parallel_ar import models
from parallel_ar.analysis import timing
from parallel_ar.data import pipeline
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import datasets, optimizer, state, step


class Entry(NamedTuple):
  """A program of a case.

  Attributes:
    name: shown in the table.
    run: does the work and waits for it.
    units: of work that a run does.
    counted: what it costs in other than time, as text.
    line: of the plot, and `at`, where on it.
    at: abscissa; nan: a remedy with no place on a line.
    remedy: whether it is what helps.
  """

  name: str
  run: Callable[[], Any]
  units: float = 1.0
  counted: str = ''
  line: str = ''
  at: float = math.nan
  remedy: bool = False


class Row(NamedTuple):
  """A measured entry: seconds a unit, and the gain over the first entry."""

  name: str
  counted: str
  line: str
  at: float
  remedy: bool
  seconds: timing.Summary
  gain: timing.Summary


class Case(NamedTuple):
  """One way to be too parallel.

  Attributes:
    title: of the case.
    unit: of work.
    counted: heading of what is counted.
    axis: of the plot.
    rows: measured; the first is what gains are relative to.
    facts: further numbers, name -> (value, unit).
  """

  title: str
  unit: str
  counted: str
  axis: str
  rows: list[Row]
  facts: dict[str, tuple[float, str]] = {}


def race(entries: Sequence[Entry], rounds: int) -> list[Row]:
  """Times all entries in turn."""
  times = timing.in_turn({e.name: e.run for e in entries}, rounds=rounds)
  each = {e.name: times.seconds[e.name] / e.units for e in entries}
  first = each[entries[0].name]
  return [
    Row(
      e.name,
      e.counted,
      e.line,
      e.at,
      e.remedy,
      timing.summarize(each[e.name]),
      timing.summarize(first / each[e.name]),
    )
    for e in entries
  ]


def best(rows: Sequence[Row], remedy: bool) -> Row:
  """The fastest row a unit among remedies, or among the others."""
  some = [row for row in rows if row.remedy == remedy]
  return min(some, key=lambda row: row.seconds.median)


def trainer(config: ConfigDict, data_dir: str | None, batch: int = 0) -> Any:
  """The first model of a config, its first state, update and batches."""
  built = models.build(config.model)
  steps = config.train.steps
  rule = optimizer.make(config.optimizer, steps=steps)
  schedule = optimizer.schedule(config.optimizer, steps=steps)
  update = step.make_train_step(built, rule, schedule=schedule)
  first = state.create(built[0], rule, jax.random.key(config.seed))
  source = datasets.load_split(config, config.data.train_split, data_dir)
  datasets.check_fit(built[0], source)
  size = batch or config.train.batch_size
  return built[0], first, update, pipeline.batches(source, size, config.seed)


def trained(
  config: ConfigDict, steps: int, data_dir: str | None
) -> tuple[AutoregressiveModel, Any]:
  """The first model of a config, and parameters after a few updates."""
  model, now, update, batches = trainer(config, data_dir)
  update = jax.jit(update, donate_argnums=0)
  for n in range(steps):
    now, _ = update(now, batches[n])
  return model, jax.block_until_ready(now.params)


def draw_of(sampler: Any, params: Any, keys: Any, context: Any) -> Any:
  """A sampler's draw as a callable that waits."""
  return lambda: jax.block_until_ready(sampler(params, keys, context))


def context_of(model: AutoregressiveModel, batch: int) -> Any:
  """Zeros of a model's context, or None."""
  zeros = lambda s: np.zeros((batch, *s.shape), s.dtype)
  return jax.tree.map(zeros, model.context)
