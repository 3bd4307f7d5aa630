"""The state of a run in few arrays, so that a dispatch is short.

A dispatch costs the host some microseconds for every array that goes in or
comes out, whatever its size, and a state has many small ones: 111 for the
Transformer of `configs/digits_transformer.py`. So what travels from step to
step is one vector for the small leaves of each dtype, which the compiled step
takes apart and puts together again. Large leaves and those that are spread over
devices travel as they are.

The bits are those of a step that takes and gives the leaves: barriers keep XLA
from fusing the vectors into the step, which would round otherwise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.distributed import sharding
from parallel_ar.training.state import TrainState
from parallel_ar.types import Array

_LARGEST = 2**14  # elements of a leaf in a vector: each step copies it


class Packed(NamedTuple):
  """A state in few arrays; a pytree.

  Attributes:
    vectors: the small leaves, one vector for each dtype.
    others: the other leaves, in their order.
  """

  vectors: tuple[Array, ...]
  others: tuple[Any, ...]


class Packing:
  """How the states of one run are packed.

  Attributes:
    template: TrainState of shapes, dtypes and shardings, for a restore.
    state_places: TrainState of shardings.
    places: Packed of shardings.
  """

  def __init__(
    self,
    shapes: TrainState,
    places: TrainState,
    whole: Any,
    *,
    largest: int = _LARGEST,
  ):
    """Sorts the leaves.

    Args:
      shapes: shapes and dtypes of a state, as `jax.eval_shape` gives them.
      places: their shardings.
      whole: sharding of what every device has.
      largest: elements of a leaf that is packed; 0 packs none.
    """
    self.template = sharding.with_shardings(shapes, places)
    self.state_places = places
    self._leaves, self._tree = jax.tree.flatten(shapes)
    where = jax.tree.leaves(places)
    groups: dict[Any, list[int]] = {}
    for i, (leaf, place) in enumerate(zip(self._leaves, where, strict=True)):
      if leaf.size <= largest and _plain(leaf) and place.is_fully_replicated:
        groups.setdefault(leaf.dtype, []).append(i)
    self._groups = [found for found in groups.values() if len(found) > 1]
    small = [i for group in self._groups for i in group]
    self._order = [*small, *sorted(set(range(len(where))) - set(small))]
    self._small = len(small)
    others = tuple(where[i] for i in self._order[len(small) :])
    self.places = Packed((whole,) * len(self._groups), others)
    cut = [where[i] for i in small]
    self._cut = jax.jit(self._take_apart, out_shardings=cut)
    self._join = jax.jit(self._put_together, out_shardings=self.places.vectors)

  def pack(self, state: TrainState) -> Packed:
    """The arrays that travel; pure, and compiled wherever it is called.

    Args:
      state: leaves of these shapes; the packed ones get the dtypes of `shapes`,
        which are those of a checkpoint.
    """
    leaves = jax.tree.leaves(state)
    leaves = [leaves[i] for i in self._order]
    vectors = self._join(leaves[: self._small]) if self._small else ()
    return Packed(vectors, tuple(leaves[self._small :]))

  def unpack(self, packed: Packed) -> TrainState:
    """The inverse of `pack`; the large leaves are those of `packed`."""
    small = self._cut(packed.vectors) if self._small else []
    leaves = dict(zip(self._order, [*small, *packed.others], strict=True))
    ordered = [leaves[i] for i in range(len(leaves))]
    state: TrainState = jax.tree.unflatten(self._tree, ordered)
    return state

  def _put_together(self, small: Sequence[Array]) -> tuple[Array, ...]:
    flat, vectors = iter(jax.lax.optimization_barrier(small)), []
    for group in self._groups:
      dtype = self._leaves[group[0]].dtype
      parts = [next(flat).reshape(-1).astype(dtype) for _ in group]
      vectors.append(jnp.concatenate(parts))
    return tuple(vectors)

  def _take_apart(self, vectors: Sequence[Array]) -> list[Array]:
    small = []
    for vector, group in zip(vectors, self._groups, strict=True):
      leaves = [self._leaves[i] for i in group]
      ends = np.cumsum([leaf.size for leaf in leaves])
      for leaf, end in zip(leaves, ends.tolist(), strict=True):
        small.append(vector[end - leaf.size : end].reshape(leaf.shape))
    return jax.lax.optimization_barrier(small)


def _plain(leaf: Any) -> bool:
  """Whether a vector keeps what is known of a leaf: no key, no weak type."""
  extended = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
  return not extended and not leaf.weak_type
