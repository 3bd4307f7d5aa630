"""One step that is run: registers, and what earlier steps have left."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import facts as known
from parallel_ar.decode.cuts import Border, Cut
from parallel_ar.decode.plan import Class, Group, Instruction
from parallel_ar.program.trace import Array


class Run:
  """One step that is run: registers, and what is kept."""

  def __init__(
    self,
    plan: Class,
    k: Any,
    fixed: Mapping[Array, Any],
    kept: dict[Array, Any],
    borders: Mapping[Array, Border],
    layouts: Mapping[Array, tuple[int, ...]],
    at: Callable[[Array, Cut], Cut] = lambda v, cut: cut,
    exists: Any = True,
  ):
    """Prepares it.

    Args:
      plan: its class.
      k: the step, counted in the class.
      fixed: arrays that read no value.
      kept: what earlier steps have left; replaced as it is written.
      borders: zeros around what is kept.
      layouts: order of the axes of what is kept, where it is not the array's.
      at: from places in an array to places in what is kept of it.
      exists: bool[]; where False, zeros are kept in place of what is computed.
    """
    self.kept = kept
    self._plan, self._k, self._fixed = plan, k, fixed
    self._borders, self._layouts, self._at = borders, layouts, at
    self._exists = exists
    self._fresh: dict[Array, tuple[Cut, Any]] = {}

  def all(self, only: Iterable[Instruction | Group] | None = None) -> None:
    """Runs the instructions."""
    for i in self._plan.grouped if only is None else only:
      if isinstance(i, Group):
        self._some(i)
        continue
      found = self._one(i)
      for v, cut, value in zip(i.op.outputs, i.made, found, strict=True):
        if cut is not None:
          self._put(v, cut, value)

  def _one(self, i: Instruction) -> list[Any]:
    return i.run([self._read(v, cut, i.mask) for v, cut in i.needs], self._k)

  def _some(self, group: Group) -> None:
    """Instructions that not all steps run."""

    def run() -> list[Any]:
      inner = copy.copy(self)
      inner.kept, inner._fresh = dict(self.kept), dict(self._fresh)
      inner.all(group.instructions)
      return [inner._fresh[v][1] for v, _ in group.exports]

    def leave() -> list[Any]:
      # What is kept stays as it is; the rest is read by the same steps only.
      return [
        self._held(v, cut)
        if v in self.kept
        else jnp.zeros(cutting.sizes(cut, v.shape), v.dtype)
        for v, cut in group.exports
      ]

    found = jax.lax.cond(cutting.entry(group.mask, self._k), run, leave)
    for (v, cut), value in zip(group.exports, found, strict=True):
      self._put(v, cut, value)

  def _put(self, v: Array, cut: Cut, value: Any) -> None:
    self._fresh[v] = cut, value
    if v in self.kept:
      axes, own = self._stored(v, cut)
      border = [self._borders[v][n] for n in axes]
      value = value.transpose(axes)
      if self._exists is not True:
        value = jnp.where(self._exists, value, jnp.zeros_like(value))
      self.kept[v] = cutting.write(self.kept[v], value, own, self._k, border)

  def _stored(self, v: Array, cut: Cut) -> tuple[tuple[int, ...], Cut]:
    """The order of axes in memory, and a cut in it."""
    axes = self._layouts.get(v, tuple(range(len(v.shape))))
    own = self._at(v, cut)
    return axes, tuple(own[n] for n in axes)

  def made(self, v: Array) -> tuple[Cut, Any] | None:
    """What the step has computed of an array."""
    return self._fresh.get(v)

  def read(self, v: Array, cut: Cut) -> Any:
    """A box of an array, after the step."""
    return self._read(v, cut, None)

  def _read(self, v: Array, cut: Cut, mask: Any) -> Any:
    if v.value is not None:
      return _constant(v, cut, self._k)
    if (view := self._plan.views.get((v, cut, id(mask)))) is not None:
      n, needs, run = view
      values = [self._read(source, own, mask) for source, own in needs]
      return run(values, self._k)[n]
    if v in self._fresh and self._plan.covers(v, cut, mask):
      fresh, value = self._fresh[v]
      rest = tuple(
        None if f is not None else i for f, i in zip(fresh, cut, strict=True)
      )
      return cutting.read(value, rest, self._k)
    if v in self.kept:
      return self._held(v, cut)
    return cutting.read(self._fixed[v], cut, self._k)

  def _held(self, v: Array, cut: Cut) -> Any:
    axes, own = self._stored(v, cut)
    border = [self._borders[v][n] for n in axes]
    found = cutting.read(self.kept[v], own, self._k, border)
    return found.transpose(np.argsort(axes))


def _constant(v: Array, cut: Cut, k: Any) -> Any:
  """A box of a constant; an axis along which it is the same is not stored."""
  if not isinstance(v.value, np.ndarray):
    return cutting.read(v.value, cut, k)
  a = known.thin(v.value)
  own = tuple(None if n == 1 else i for i, n in zip(cut, a.shape, strict=True))
  shape = cutting.sizes(cut, v.shape)
  return jnp.broadcast_to(cutting.read(jnp.asarray(a), own, k), shape)
