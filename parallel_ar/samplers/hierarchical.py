"""Sampling a hierarchy: a chain of models, each given the levels before it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from parallel_ar import doors, likelihood
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers.fixed_point import fixed_point
from parallel_ar.samplers.sweep import Sample, SampleInfo, Sampler
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey

# (values of the levels before, context of the whole) -> context of the level
Condition = Callable[[tuple, Context], Context]


class Level(NamedTuple):
  """One level of a hierarchy.

  Attributes:
    model: p_l(x_l | c_l).
    condition: for one example, (x_1, ..., x_{l-1}) and the context of the whole
      -> c_l; by default the context of the whole itself.
    sampler: of the model; `fixed_point` by default.
  """

  model: AutoregressiveModel
  condition: Condition = lambda before, context: context
  sampler: Sampler | None = None


class HierarchicalSample(NamedTuple):
  """Samples of all levels with their exact likelihood.

  Attributes:
    x: array[B, *event_l] of each level.
    log_prob: float[B], nats, of all levels together.
    info: of each level.
  """

  x: tuple[ArrayLike, ...]
  log_prob: ArrayLike
  info: tuple[SampleInfo, ...]


class HierarchicalSampler(Protocol):
  """Draws samples of a chain of levels; what `hierarchical` returns."""

  def __call__(
    self, params: Sequence[Params], keys: PRNGKey, context: Context = None
  ) -> HierarchicalSample:
    """Draws one sample for each key.

    Args:
      params: one for each level.
      keys: key[B].
      context: of the whole, leaves with leading axis B, or None.

    Returns:
      A HierarchicalSample: x of each level, log_prob float[B] in nats.

    Raises:
      ValueError: what does not fit a level.
    """
    ...


def hierarchical(levels: Sequence[Level]) -> HierarchicalSampler:
  """Draws level after level, each in parallel inside.

    p(x_1, ..., x_L) = prod_l p_l(x_l | c_l(x_1, ..., x_{l-1}))

  The sequential depth is the sum of what the levels need. Level l of the key k
  is drawn with fold_in(k, l), so the integers do not depend on the samplers.
  (A hierarchy inside one model is a rank with ties: `fixed_point` and
  `ancestral` need at most one pass a rank.)

  Args:
    levels: the chain, coarsest first; a level without a context reads nothing
      of the levels before.

  Returns:
    sampler(params, keys, context=None), with one params for each level.

  Raises:
    ValueError: no levels, or a condition that does not give a level the context
      that its model takes; at the call, not one params for each level.
  """
  levels = _check(levels)

  def sample(
    params: Sequence[Params], keys: PRNGKey, context: Context = None
  ) -> HierarchicalSample:
    _check_count(levels, params)
    keys = doors.check_keys(keys)
    drawn: list[Sample] = []
    for l, (level, own) in enumerate(zip(levels, params, strict=True)):
      given = _contexts(level, tuple(s.x for s in drawn), context)
      key = jax.vmap(lambda k, l=l: jax.random.fold_in(k, l))(keys)
      draw = level.sampler or fixed_point(level.model)
      drawn.append(draw(own, key, given))
    return HierarchicalSample(
      tuple(s.x for s in drawn),
      jnp.stack([s.log_prob for s in drawn]).sum(0),
      tuple(s.info for s in drawn),
    )

  sample.__doc__ = HierarchicalSampler.__call__.__doc__
  return sample


def hierarchical_log_prob(
  levels: Sequence[Level],
  params: Sequence[Params],
  x: Sequence[Array],
  context: Context = None,
) -> Array:
  """log p(x_1, ..., x_L), one pass a level, all of them independent: nats[B].

  Args:
    levels: the chain.
    params: of each level.
    x: array[B, *event_l] of each level.
    context: of the whole, leaves with leading axis B, or None.

  Raises:
    ValueError: as `hierarchical`.
  """
  levels = _check(levels)
  _check_count(levels, params)
  total: Any = 0.0
  for l, (level, own) in enumerate(zip(levels, params, strict=True)):
    given = _contexts(level, tuple(x[:l]), context)
    total = total + likelihood.log_prob(level.model, own, x[l], given)
  return total


def _contexts(level: Level, before: tuple, context: Context) -> Context:
  if level.model.context is None:
    return None
  return jax.vmap(level.condition)(before, context)


def _check(levels: Sequence[Level]) -> tuple[Level, ...]:
  levels = tuple(levels)
  if not levels:
    raise ValueError('A hierarchy needs at least one level; got none.')
  for level in levels:
    doors.check_part('a level', level, Level, 'par.Level(model)')
    doors.check_model(level.model)
  for l, level in enumerate(levels[1:], 1):
    want = level.model.context
    if want is None:
      continue
    before = tuple(lower.model.event for lower in levels[:l])
    whole = levels[0].model.context
    try:
      have = jax.eval_shape(level.condition, before, whole)
    except Exception as error:
      raise ValueError(
        f'Level {l}, {level.model.name}: its condition could not be traced on '
        f'the levels before, {before}: {error}'
      ) from error
    spec = lambda tree: jax.tree.map(lambda s: (s.shape, s.dtype.name), tree)
    if spec(have) != spec(want):
      raise ValueError(
        f'Level {l}, {level.model.name}, takes the context {spec(want)}, but '
        f'its condition gives {spec(have)}. Give condition=(levels before, '
        'context) -> context for one example.'
      )
  return levels


def _check_count(levels: tuple[Level, ...], params: Sequence[Params]) -> None:
  if not isinstance(params, tuple | list) or len(params) != len(levels):
    raise ValueError(
      f'A hierarchy of {len(levels)} levels takes a sequence of as many '
      f'params; got {type(params).__name__}.'
    )
