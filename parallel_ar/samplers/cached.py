"""Cached sampling: one slot after another, then one pass that proves it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.model import AutoregressiveModel, Decode, position_noise
from parallel_ar.samplers import sweep
from parallel_ar.samplers.sweep import Sample, SampleInfo, Sampler
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey


def cached(
  model: AutoregressiveModel,
  decode: Decode | None = None,
  *,
  verify: bool = True,
) -> Sampler:
  """Draws slot after slot from a cache, and proves the result by full passes.

    dist_k, cache = extend(cache, k, x_{k-1});   x_k = pick(dist_k, noise_k)

  A cache computes the same conditionals in another program, whose rounding can
  flip a pick that nearly ties. The draw is therefore a forecast: the passes of
  `fixed_point` verify it, and repair what was flipped, so that the sample has
  the integers of `ancestral`. One pass suffices where nothing was flipped.

  Args:
    model: the model.
    decode: incremental evaluation; the model's own by default.
    verify: False returns the forecast itself, whose log_prob is that of the
      cached conditionals; `info.passes` is then 0.

  Returns:
    A sampler, called as `ancestral`'s. `info.steps` counts the D extensions,
    `info.repaired` the positions that rounding had flipped.

  Raises:
    ValueError: the model has no decode path and none is given.
  """
  decode = decode or model.decode
  if decode is None:
    raise ValueError(
      f'{model.name} has no decode path. Use fixed_point, which needs none, or '
      'pass decode=recompute_decode(model), which is as slow as ancestral.'
    )

  def sampler(
    params: Params,
    keys: PRNGKey,
    context: Context = None,
    *,
    x: ArrayLike | None = None,
    known: ArrayLike | None = None,
  ) -> Sample:
    given, known = sweep.prepare(model, keys, context, x, known)
    draft = _draw(model, decode, params, keys, context, given, known)
    if not verify:
      return draft
    sample = sweep.sweep(
      model, params, keys, context, draft.x, given, known, jnp.array(False)
    )
    return sample._replace(info=sample.info._replace(steps=draft.info.steps))

  return sampler


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(
  model: AutoregressiveModel,
  decode: Decode,
  params: Params,
  keys: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
) -> Sample:
  """Draws every example by one scan over the slots."""
  slots = order.slots(model.rank)
  ends = np.argsort(slots)
  lead = model.rank.ndim

  def in_slots(tree):
    flat = lambda a: a.reshape(slots.size, *a.shape[lead:])[slots]
    return jax.tree.map(flat, tree)

  def draw(key, context, given, known):
    noise = position_noise(model, key)
    given, known, noise = in_slots((given, known, noise))

    def step(carry, at):
      cache, previous = carry
      k, given, known, noise = at
      dist, cache = decode.extend(params, cache, k, previous[None])
      dist = jax.tree.map(lambda d: d[0], dist)
      picked = model.head.pick(dist, noise).astype(given.dtype)
      value = jnp.where(known, given, picked)
      return (cache, value), (value, model.head.log_prob(dist, value))

    start = decode.init(params, context), jnp.zeros_like(given[0])
    inputs = jnp.arange(slots.size), given, known, noise
    _, (x, terms) = jax.lax.scan(step, start, inputs)
    return x[ends].reshape(model.event.shape), terms.sum()

  x, log_prob = jax.vmap(draw)(keys, context, given, known)
  zeros = jnp.zeros(x.shape[0], jnp.int32)
  info = SampleInfo(
    passes=zeros,
    evaluations=jnp.zeros((), jnp.int32),
    accepted=jnp.zeros((x.shape[0], model.depth), jnp.int32),
    steps=jnp.asarray(slots.size, jnp.int32),
    repaired=zeros,
  )
  return Sample(x, log_prob, info)
