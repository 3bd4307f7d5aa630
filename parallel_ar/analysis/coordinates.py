"""The coordinate check: do activations keep their size as a model gets wider?

After t updates of models of several widths, all else equal, the mean absolute
value of what each layer gives is compared. Under mu-P (`training.mup`) it tends
to a constant for every layer, and to 0 or a constant for the output; under the
standard parametrization some grow with the width, so that the best learning
rate moves (Yang et al. 2022, arXiv:2203.03466, appendix D.1).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from parallel_ar import models as models_lib
from parallel_ar.adapters import linen
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import optimizer, state, step
from parallel_ar.types import Array, ArrayLike, Context, Params


class Row(NamedTuple):
  """Of one model after some updates.

  Attributes:
    by_width: whether it is trained under mu-P.
    factor: of its widths, over the base.
    step: updates done.
    sizes: name of a layer -> mean |value|, see `coordinates`.
  """

  by_width: bool
  factor: int
  step: int
  sizes: dict[str, float]


def coordinates(
  model: AutoregressiveModel,
  params: Params,
  x: ArrayLike,
  context: Context = None,
) -> dict[str, float]:
  """The mean absolute value of what each layer gives, and of the dist.

  Args:
    model: any; layers are those of Linen modules.
    params: its parameters.
    x: array[B, *event].
    context: leaves with leading axis B, or None.

  Returns:
    path of a layer -> mean over examples and entries; 'dist' for the leaves of
    what the head reads (of logits: in nats).
  """

  @jax.jit
  def sizes(params: Params, x: ArrayLike, context: Context) -> dict[str, Array]:
    dist, found = linen.outputs(model.conditionals, params, x, context)
    for n, leaf in enumerate(jax.tree.leaves(dist)):
      found[f'dist_{n}' if n else 'dist'] = leaf
    of_one = lambda leaf: jnp.mean(jnp.abs(leaf.astype(jnp.float32)))
    return jax.tree.map(of_one, found)

  each = [
    sizes(params, x[b], jax.tree.map(lambda leaf, b=b: leaf[b], context))
    for b in range(len(x))
  ]
  return {name: float(np.mean([s[name] for s in each])) for name in each[0]}


def widened(config: ConfigDict, factor: int) -> ConfigDict:
  """The config whose model has `factor` times the widths of its mup_base.

  Raises:
    ValueError: the base is empty, or has a field that is no whole number.
  """
  base = config.optimizer.mup_base.to_dict()
  times = {}
  for name, value in base.items():
    many = value if isinstance(value, list | tuple) else [value]
    if not all(type(n) is int for n in many):
      raise ValueError(
        f'config.optimizer.mup_base.{name} = {value!r} is no width: a base '
        'that is widened has whole numbers, such as features=64, heads=4.'
      )
    wide = tuple(n * factor for n in many)
    times[name] = wide if isinstance(value, list | tuple) else wide[0]
  if not times:
    raise ValueError(
      'config.optimizer.mup_base is empty: name the fields that are widths, '
      'as in --config.optimizer.mup_base.features=64.'
    )
  wider: ConfigDict = config.copy_and_resolve_references()
  with wider.unlocked():
    wider.model.update(times)
  return wider


def check(
  config: ConfigDict,
  factors: Sequence[int],
  steps: Sequence[int],
  batches: Any,
  examples: int = 2,
) -> list[Row]:
  """Trains models of several widths, with mu-P and without.

  Args:
    config: of a run, with a `mup_base`.
    factors: widths, in those of the base.
    steps: after how many updates coordinates are taken, ascending.
    batches: batches[t] is that of update t.
    examples: of the first batch, whose coordinates are taken.

  Returns:
    The rows: without mu-P first, by factor and step.

  Raises:
    ValueError: see `widened` and `mup.rates`.
  """
  return [
    row
    for by_width in (False, True)
    for factor in factors
    for row in _follow(config, by_width, factor, steps, batches, examples)
  ]


def exponents(rows: Sequence[Row], by_width: bool, at: int) -> dict[str, float]:
  """Of each layer the slope of log mean |value| over log width.

  Args:
    rows: of `check`, of at least two widths.
    by_width: of the models with mu-P, or of those without.
    at: updates done.

  Returns:
    layer -> the number p, where its size goes as width^p; 0 is flat.
  """
  mine = [r for r in rows if r.by_width == by_width and r.step == at]
  widths = np.log([row.factor for row in mine])
  found = {}
  for name in mine[0].sizes:
    sizes = np.log([max(row.sizes[name], 1e-30) for row in mine])
    found[name] = float(np.polyfit(widths, sizes, 1)[0])
  return found


def _follow(
  config: ConfigDict,
  by_width: bool,
  factor: int,
  steps: Sequence[int],
  batches: Any,
  examples: int,
) -> list[Row]:
  """The rows of one model."""
  wider = widened(config, factor)
  if not by_width:
    wider.optimizer.mup_base = {}
  (model,) = models_lib.build(wider.model)
  rule, create = state.of_config(wider, model)
  update = jax.jit(
    step.make_train_step(
      [model],
      rule,
      schedule=optimizer.schedule(wider.optimizer, steps=wider.train.steps),
      ema_decay=wider.train.ema_decay,
      seed=wider.seed,
    )
  )
  now = create(jax.random.key(wider.seed))
  seen = jax.tree.map(lambda leaf: leaf[:examples], batches[0])
  context = None if model.context is None else seen['context']
  rows = []
  for t in range(max(steps) + 1):
    if t in steps:
      sizes = coordinates(model, now.params, seen['x'], context)
      rows.append(Row(by_width, factor, t, sizes))
    if t < max(steps):
      now, _ = update(now, batches[t])
  return rows
