"""Ways to evaluate one model: the same mathematics, more or less at once."""

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import likelihood, models
from parallel_ar.analysis import timing
from parallel_ar.layers import attention, recurrence, remat
from parallel_ar.samplers import path
from parallel_ar.testing import case as cases
from parallel_ar.training import step

Section = Mapping[str, Any]
_LINEAR = ('associative', 'scan', 'chunked')


class Way(NamedTuple):
  """How a model is evaluated.

  Attributes:
    fields: of the model's section that differ.
    parts: of the batch, one after another.
    blocks: block by block, see `likelihood.blockwise_log_prob`.
    long: slots from which on attention keeps no scores; None: as it is.
  """

  fields: dict[str, Any] = {}
  parts: int = 1
  blocks: bool = False
  long: int | None = None


class Point(NamedTuple):
  """One program: its seconds, and its bytes beside arguments and results."""

  seconds: timing.Summary
  share: timing.Summary
  bytes: int


def resize(section: Section, length: int) -> dict[str, Any]:
  """The section with an event of so many slots; 0 leaves it as it is.

  Raises:
    ValueError: an event of another form than [L] or [H, W, 1].
  """
  event = tuple(section['event'])
  if not length:
    return dict(section)
  if len(event) == 1:
    return {**section, 'event': (length,)}
  if event[2:] != (1,):
    raise ValueError(
      f'--lengths changes events of one axis or images of one channel; the '
      f'model has the event {event}. Leave --lengths out.'
    )
  height = 2 ** (int(math.log2(length)) // 2)
  if length % height:
    raise ValueError(f'--lengths={length} is no image: give powers of two.')
  return {**section, 'event': (height, length // height, 1)}


def ways(section: Section, batch: int, what: str) -> dict[str, Way]:
  """How the model of a section can be evaluated, the most parallel first.

  Args:
    section: of a config, `model`.
    batch: examples.
    what: 'pass' or 'gradient'; checkpoints change only the second.

  Returns:
    Name -> Way.
  """
  name, length = section['name'], math.prod(section['event'])
  fields = inspect.signature(models.FAMILIES[name]).parameters
  found: dict[str, Way] = {}
  plain = {'remat': 'none'} if 'remat' in fields else {}
  thin = {'remat': 'full'} if 'remat' in fields else {}
  if name == 'transformer' and 'full' in section.get('pattern', ('full',)):
    never = length + 1
    found |= {
      'one square': Way({**plain, 'chunk': length}, long=never),
      'chunks of queries': Way({**plain, 'chunk': 0}, long=never),
      'no scores kept': Way({**plain, 'chunk': 0}, long=1),
    }
    if what == 'gradient':
      both = {**thin, 'chunk': 0}
      found['no scores, checkpoints'] = Way(both, long=1)
  elif name == 'recurrent':
    linear = section.get('cell', 'min_gru') in recurrence.LINEAR
    kinds = _LINEAR if linear else ('quasi_deer', 'scan')
    found |= {k: Way({**plain, 'evaluation': k}) for k in kinds}
  else:
    found['one pass'] = Way(plain)
  first, last = next(iter(found.values())), list(found.values())[-1]
  if thin and what == 'gradient':
    for policy in remat.POLICIES:
      if policy != 'none':
        way = first._replace(fields={**first.fields, 'remat': policy})
        found[f'checkpoints: {policy}'] = way
  decode = path.choose(build(section)).decode
  if decode.blocks is not None:
    found['by blocks'] = first._replace(blocks=True)
  if batch > 1:
    found['by examples'] = first._replace(parts=batch)
    found['least of all'] = last._replace(
      fields={**last.fields, **thin},
      parts=batch,
      blocks='by blocks' in found,
    )
  return found


def program(
  section: Section, batch: int, what: str, way: Way
) -> tuple[Any, int]:
  """One way as a callable, and its bytes beside arguments and results."""
  model = build({**section, **way.fields})
  params = cases.random_params(model, gain=1.0)
  case = cases.make_case(model, params=params, batch=batch)
  if way.blocks:
    nats = functools.partial(likelihood.blockwise_log_prob, model)
    loss = lambda p, x, c: -nats(p, x, c).mean()
  else:
    nats = functools.partial(likelihood.log_prob, model)
    objective = step.make_loss([model])
    loss = lambda p, x, c: objective(p, {'x': x, 'context': c}, 0)
  function = nats if what == 'pass' else jax.grad(loss)
  cut = lambda a: jnp.split(jnp.asarray(a), way.parts)
  contexts = jax.tree.map(cut, case.context)
  take = lambda i: jax.tree.map(
    lambda a: a[i], contexts, is_leaf=lambda a: isinstance(a, list)
  )
  rows = [(x, take(i)) for i, x in enumerate(cut(case.x))]
  with _scores_until(way.long):
    compiled: Any = jax.jit(function).lower(params, *rows[0]).compile()
  size = int(compiled.memory_analysis().temp_size_in_bytes)
  if what == 'gradient' and way.parts > 1:  # the sum so far
    size += sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  if what == 'pass' or way.parts == 1:
    run = lambda: jax.block_until_ready([compiled(params, *r) for r in rows])
    return run, size
  add = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)

  def total() -> Any:
    # A call for each part: a loop around a gradient is slow on a CPU, see
    # training/step.py.
    grads = compiled(params, *rows[0])
    for row in rows[1:]:
      grads = add(grads, compiled(params, *row))
    return jax.block_until_ready(grads)

  return total, size


@contextlib.contextmanager
def _scores_until(length: int | None) -> Iterator[None]:
  """Sets from how many slots on attention keeps no scores, while tracing."""
  before = attention.LONG
  if length is not None:
    attention.LONG = length
  try:
    yield
  finally:
    attention.LONG = before


def build(section: Section) -> Any:
  """The first model of a section."""
  return models.build(section)[0]


def front(points: Mapping[str, Point]) -> list[str]:
  """Names of the points that no other beats in both time and bytes."""
  at = {name: (p.share.median, p.bytes) for name, p in points.items()}
  return [
    name
    for name, (t, b) in at.items()
    if not any(u <= t and c <= b and (u, c) != (t, b) for u, c in at.values())
  ]
