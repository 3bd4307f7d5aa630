"""The incremental program of any model, derived from its one pass.

The pass is traced; `schedule` says when each entry can and must be computed,
`plan` what a step computes and keeps; `run` runs it, `rows` does so row by row
and `levels` group by group. See docs/derived_cache.md.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order, partition
from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import levels, rows
from parallel_ar.decode.plan import Class
from parallel_ar.decode.record import (
  Blocks,
  Decode,
  Groups,
  recompute_decode,
  slot_by_slot,
)
from parallel_ar.decode.run import Run
from parallel_ar.decode.schedule import NotCausal
from parallel_ar.decode.timed import Cache, Timed
from parallel_ar.memo import once
from parallel_ar.program.trace import Array
from parallel_ar.types import Dist, Params

_SMALL = 4  # slots of a group from which on groups are faster than rows


def derive_decode(model: Any) -> Decode:
  """Incremental evaluation of any model, from its one-pass function.

  Args:
    model: an `AutoregressiveModel`.

  Returns:
    The path, the same one at every call. Where the pass reads what is not known
    yet, as far as can be seen, it is `recompute_decode`: right, and one full
    pass for each block.
  """
  path: Decode = once(model, 'derive_decode', lambda: _path(model))
  return path


def _path(model: Any) -> Decode:
  """Takes the plan of the precision that the parameters come in."""
  own = derived(model)
  if own is None:
    return recompute_decode(model)
  of = lambda params: derived(model, params) or own

  def part(kind: str, name: str) -> Any:
    """The function of a part of the path, of the plan of its parameters."""

    def run(params: Params, *rest: Any) -> Any:
      return getattr(getattr(of(params), kind), name)(params, *rest)

    return run

  parts = lambda kind, names: {name: part(kind, name) for name in names}
  blocks, groups = own.blocks, own.groups
  if blocks is not None:
    names = [name for name in Blocks._fields if name != 'size']
    blocks = blocks._replace(**parts('blocks', names))
  if groups is not None:
    groups = groups._replace(**parts('groups', Groups._fields))
  return Decode(
    lambda params, context: of(params).init(params, context),
    lambda params, *rest: of(params).extend(params, *rest),
    rewind=lambda cache, k: cache,
    blocks=blocks,
    groups=groups,
  )


def derived(model: Any, params: Params = None) -> 'Derived | None':
  """The plan behind `derive_decode`, the same one at every call.

  Args:
    model: an `AutoregressiveModel`.
    params: its parameters, for their dtypes; those of `model.init` by default.

  Returns:
    The plan; None where the pass seems to read what is not known yet.
  """
  wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
  if params is None:
    init = lambda: jax.eval_shape(model.init, jax.random.key(0))
    params = once(model, ('parameters', wide), init)
  dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(params))

  def make() -> Derived | None:
    spec = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    try:
      # It is kept, and may be asked for under one mesh and used under another.
      found: Derived = partition.alone(Derived)(
        model, jax.tree.map(spec, params)
      )
      return found
    except NotCausal:
      return None

  plan: Derived | None = once(model, ('derived', dtypes, wide), make)
  return plan


class Derived(Timed):
  """A model's pass, and the programs of its steps slot by slot."""

  def __init__(self, model: Any, params: Any):
    """Traces the pass and plans the steps; `params` has shapes and dtypes."""
    self.slots = order.slots(model.rank)
    self.num = len(self.slots)
    slot_of = np.argsort(self.slots).astype(np.int32)
    super().__init__(model, params, slot_of.reshape(model.rank.shape))
    self._parameters = params
    x = self.x
    self.kept: list[Array] = []
    self._classes: dict[int, tuple[Class, list[Any]]] = {}
    self.plan, _ = self._slots(1)
    kept = [v for v in self.plan.kept if v is not x]
    self.plan.layouts.pop(x, None)
    self.kept = [x, *kept]
    self.borders = {
      v: cutting.border(v.shape, self.plan.kept.get(v, ())) for v in self.kept
    }
    self.layouts = self.plan.layouts
    self.fixed = list(dict.fromkeys(self.plan.reads_once(self.ready.once)))

  def _slots(self, n: int) -> tuple[Class, list[Any]]:
    """The class of blocks of n slots, and how its conditionals are read."""
    if n not in self._classes:
      first = np.arange(self.num - n + 1)
      plan = Class(self.schedule, first, first + n)
      flat = self.slots[first[:, None] + np.arange(n)]
      axes, where = plan.project(flat, self.model.rank.shape)
      plan.also.update(self.kept)
      self._classes[n] = plan, [self.leaves(plan, axes), where]
    return self._classes[n]

  def extend(
    self, params: Params, cache: Cache, k: Any, previous: Any
  ) -> tuple[Dist, Cache]:
    """Conditionals of slots k..k+n-1, see `Decode`."""
    n = previous.shape[0]
    plan, (leaves, where) = self._slots(n)
    k = jnp.asarray(k, jnp.int32)
    fixed = self.known(params, cache)
    kept = dict(zip(self.kept, cache.kept, strict=True))
    kept[self.x] = self._given(kept[self.x], k, previous)
    if not set(plan.kept) <= set(kept):
      return self._one_by_one(params, cache, k, previous)
    run = Run(plan, k, fixed, kept, self.borders, self.layouts)
    run.all()
    dist: list[Any] = []
    for v, cut in leaves:
      d = run.read(v, cut)
      d = d.reshape(-1, *v.shape[self.model.rank.ndim :])
      if where is not None:
        d = jnp.take(d, cutting.entry(where, k), 0, mode='clip')
      dist.append(d)
    kept_now = tuple(run.kept[v] for v in self.kept)
    return jax.tree.unflatten(self.tree, dist), dataclasses.replace(
      cache, kept=kept_now
    )

  def _given(self, x: Any, k: Any, previous: Any) -> Any:
    """The event with the values of slots k-1..k+n-2; slot -1 is none."""
    n, lead = previous.shape[0], self.model.rank.ndim
    at = k - 1 + jnp.arange(n, dtype=jnp.int32)
    slots = jnp.asarray(self.slots)
    edge = self.borders[self.x]
    if n == 1:
      # What slot -1 writes at slot 0 is written again before it is read.
      at = jnp.unravel_index(
        slots[jnp.maximum(at[0], 0)], self.model.rank.shape
      )
      starts = [jnp.int32(a + lo) for a, (lo, _) in zip(at, edge, strict=False)]
      starts += [jnp.int32(lo) for lo, _ in edge[lead:]]
      value = previous.reshape((1,) * lead + self.x.shape[lead:])
      return cutting.update(x, value.astype(x.dtype), starts)
    flat = jnp.where(at < 0, self.num, slots[jnp.maximum(at, 0)])
    where = jnp.unravel_index(flat, self.model.rank.shape)
    inside = tuple(
      jnp.where(at < 0, s, a + lo)
      for a, (lo, _), s in zip(where, edge, x.shape, strict=False)
    )
    rest = tuple(
      slice(lo, lo + m)
      for (lo, _), m in zip(edge[lead:], self.x.shape[lead:], strict=False)
    )
    return x.at[(*inside, *rest)].set(previous.astype(x.dtype), mode='drop')

  def _one_by_one(
    self, params: Params, cache: Cache, k: Any, previous: Any
  ) -> tuple[Dist, Cache]:
    """A block slot by slot, where its boxes need what is not kept."""

    def slot(params: Params, cache: Cache, k: Any, value: Any) -> Any:
      dist, cache = self.extend(params, cache, k, value[None])
      return jax.tree.map(lambda d: d[0], dist), cache

    return slot_by_slot(slot)(params, cache, k, previous)

  @functools.cached_property
  def blocks(self) -> Blocks | None:
    """The path by rows, where the slots come in rows."""
    size = rows.size_of(self.slots, self.model.rank.shape)
    if not size or self.schedule.full or self.schedule.items:
      return None
    return rows.Rows(self, size).blocks()

  @functools.cached_property
  def groups(self) -> Groups | None:
    """The path by groups of one rank, where the rank has ties."""
    depth = self.model.depth
    if depth == self.num or (self.blocks and self.num < _SMALL * depth):
      return None
    try:
      found = partition.alone(levels.Levels)(self.model, self._parameters)
    except NotCausal:  # a slot seems to read another of its own group
      return None
    return Groups(found.init, found.extend)
