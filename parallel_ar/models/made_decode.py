"""Decoding a MADE unit by unit: a whole sample for the work of one pass.

A hidden unit of degree m reads ranks <= m, so it is final as soon as rank m is
drawn, and it is computed then, once. Slot k needs the units of one degree in
every layer and one column of the output layer, O(N) multiplications for a layer
of N units, where a pass needs all N D.

Every activation has its own place in the cache, so nothing needs undoing: after
a rewind what follows is written again before it is read.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.decode import Decode, slot_by_slot
from parallel_ar.layers import embedding
from parallel_ar.types import Array, Context, Params


class _Units(NamedTuple):
  """What is known so far.

  Attributes:
    inputs: [D, V] one-hot, or [D, 1] for V = 2.
    hidden: [N] of each layer.
    base: [N] of each layer and the output layer: bias and context.
  """

  inputs: Array
  hidden: tuple[Array, ...]
  base: tuple[Array, ...]


def decode(module: Any) -> Decode:
  """The decode path of a `MADE`.

  Args:
    module: the network.

  Returns:
    The path.
  """
  rank = np.asarray(module.rank)
  slots = order.slots(rank)
  binary = module.num_values == 2
  features = 1 if binary else module.num_values
  degrees = [np.asarray(d) for d in module.hidden]
  # Rank r completes the units of degree r - 1; -1 is of the context alone.
  groups = [jnp.asarray(_groups(d + 1, order.depth(rank))) for d in degrees]
  # Layer by layer, what a unit of degree m reads: degrees <= m.
  reads = [np.repeat(rank, features), *degrees]
  names = [f'hidden_{l}' for l in range(len(degrees))] + ['out']

  def init(params: Params, context: Context) -> _Units:
    return _Units(
      jnp.zeros((rank.size, features), module.dtype),
      tuple(jnp.zeros(d.size, module.dtype) for d in degrees),
      _base(module, names, params, context),
    )

  def encode(value: Array) -> Array:
    if binary:
      return value.astype(module.dtype)[None]
    return jax.nn.one_hot(value, module.num_values, dtype=module.dtype)

  def slot(
    params: Params, units: _Units, k: Array, value: Array
  ) -> tuple[Array, _Units]:
    # Slot -1 writes slot 0, which is written again before it is read.
    last = jnp.asarray(slots)[jnp.maximum(k - 1, 0)]
    units = units._replace(inputs=units.inputs.at[last].set(encode(value)))
    position = jnp.asarray(slots)[k]
    now = jnp.asarray(rank)[position]
    inputs = units.inputs.reshape(-1)
    y, hidden = inputs, []
    for l, table in enumerate(groups):
      size, to = degrees[l].size, table[now]  # out of range is dropped
      live = jnp.asarray(reads[l]) < now
      at = jnp.minimum(to, size - 1)
      new = _pull(params[names[l]], y, live, at) + units.base[l][at]
      y = units.hidden[l].at[to].set(module.activate(new), mode='drop')
      hidden.append(y)
    at = position * features + jnp.arange(features)
    live = jnp.asarray(reads[-1]) < now
    out = _pull(params['out'], y, live, at) + units.base[-1][at]
    if module.direct:
      live = jnp.asarray(reads[0]) < now
      out = out + _pull(params['direct'], inputs, live, at)
    out = out.astype(jnp.float32)
    return out[0] if binary else out, units._replace(hidden=tuple(hidden))

  return Decode(init, slot_by_slot(slot), rewind=lambda cache, k: cache)


def _base(
  module: Any, names: list[str], params: Params, context: Context
) -> tuple[Array, ...]:
  """What each layer adds whatever the symbols are: its bias and the context."""
  add = embedding.AddContext(module.num_classes, module.dtype)
  base = []
  for l, name in enumerate(names):
    bias = params[name]['bias'].astype(module.dtype)
    if context is not None:
      own = {'params': params[f'AddContext_{l}']}
      bias = add.apply(own, bias, context)
    base.append(bias)
  return tuple(base)


def _pull(params: Params, y: Array, live: Array, to: Array) -> Array:
  """y (W * live) for the output units `to` only, in the dtype of y."""
  columns = params['kernel'].astype(y.dtype)[:, to]
  return jnp.where(live, y, 0) @ columns


def _groups(ready: np.ndarray, depth: int) -> np.ndarray:
  """Units by when they are ready: int32[R, G], padded with N, which is none."""
  counts = np.bincount(ready, minlength=depth)[:depth]
  table = np.full((depth, max(int(counts.max()), 1)), ready.size, np.int32)
  for m in range(depth):
    units = np.flatnonzero(ready == m)
    table[m, : units.size] = units
  return table
