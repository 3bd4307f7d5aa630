"""Too many devices, too few examples: limits of a training step."""

import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.limits import meshes, race
from parallel_ar.analysis import timing
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding


def sharding_too_far(
  config: ConfigDict, devices: int, rounds: int
) -> race.Case:
  """One batch over more and more virtual devices of one CPU.

  Args:
    config: of a run.
    devices: at most; a power of two.
    rounds: timed.

  Returns:
    The case: the batch of the config on `data`, and parameters or activations
    cut too where the family can; remedies are `data` alone, and as many
    examples a device as one device had.
  """
  size = config.train.batch_size // config.train.accumulate
  counts = [2**k for k in range(1 + int(math.log2(devices)))]
  wanted: list[tuple[str, dict[str, int], int, bool]] = []
  for n in counts:
    if size % n == 0:
      sizes = mesh_lib.fill({'data': n}, n)
      wanted.append((mesh_lib.describe(sizes), sizes, size, False))
  last = counts[-1]
  able = sharding.FAMILIES.get(config.model.name, sharding.Family()).axes
  for axis in ('fsdp', *able):
    if axis == 'tensor' and config.model.get('heads', 4) % last:
      continue
    sizes = mesh_lib.fill({axis: last}, last)
    if axis != 'fsdp' or size % last == 0:
      wanted.append((mesh_lib.describe(sizes), sizes, size, False))
  more = mesh_lib.fill({'data': last}, last)
  name = f'{mesh_lib.describe(more)}, {last} times the batch'
  wanted.append((name, more, last * size, True))
  found = meshes.measure(
    config, [(sizes, batch) for _, sizes, batch, _ in wanted], last, rounds
  )
  first = found[0].seconds / found[0].batch
  rows: list[race.Row] = []
  facts: dict[str, tuple[float, str]] = {}
  for (name, sizes, batch, remedy), got in zip(wanted, found, strict=True):
    each = got.seconds / batch
    alone = set(sizes.values()) == {1, sizes['data']} and not remedy
    text = f'{got.calls} collectives, {got.sent / 1e6:.2f} MB sent'
    rows.append(
      race.Row(
        name,
        text,
        'data' if alone else '',
        sizes['data'] if alone else math.nan,
        remedy,
        timing.summarize(each),
        timing.summarize(first / each),
      )
    )
    facts[f'{name}: collectives'] = got.calls, 'calls'
    facts[f'{name}: sent'] = got.sent, 'bytes'
    facts[f'{name}: memory'] = got.memory, 'bytes'
  title = (
    f'sharding too far ({config.model.name}, {size} examples, virtual devices)'
  )
  return race.Case(title, 'example', 'sent a step', 'devices', rows, facts)


def small_batches(
  config: ConfigDict,
  batches: list[int],
  scanned: int,
  data_dir: str | None,
  rounds: int,
) -> race.Case:
  """Training steps of small and large batches.

  Args:
    config: of a run.
    batches: examples of a step.
    scanned: steps that the remedy of the smallest batch takes in one program.
    data_dir: of the data.
    rounds: timed.

  Returns:
    The case; remedies are a larger batch, and several steps in one program.
  """
  entries = []
  least = min(batches)
  for batch in batches:
    _, first, update, data = race.trainer(config, data_dir, batch)
    entries.append(
      race.Entry(
        f'batch {batch}',
        _steps(jax.jit(update), first, data[0]),
        batch,
        '1 step a call',
        'a step a call',
        batch,
        batch > least,
      )
    )
  _, first, update, data = race.trainer(config, data_dir, least)

  @jax.jit
  def several(now: Any, batches: Any) -> Any:
    return jax.lax.scan(update, now, batches)

  stacked = jax.tree.map(
    lambda *a: np.stack(a), *(data[k] for k in range(scanned))
  )
  entries.append(
    race.Entry(
      f'batch {least}, {scanned} steps a call',
      _steps(several, first, stacked),
      least * scanned,
      f'{scanned} steps a call',
      remedy=True,
    )
  )
  rows = race.race(entries, rounds)
  title = f'batches too small ({config.model.name})'
  return race.Case(title, 'example', 'calls', 'examples of a step', rows, {})


def _steps(program: Any, now: Any, batch: Any) -> Any:
  return lambda: jax.block_until_ready(program(now, batch))
