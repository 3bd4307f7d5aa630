"""Recurrent networks, evaluated in parallel over time.

  y = y + W recurrence(norm(y)),   y = y + mlp(norm(y))     in every block

A recurrence is no reason to compute one slot after another: minGRU, minLSTM and
RG-LRU are linear in their state and take one scan of depth O(log L); a GRU is
the solution of an equation in all its states, which Newton's method solves in a
few such scans. `layers.recurrence` has the equations and papers. A step of the
derived decode path costs the same at every slot.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import model, partition
from parallel_ar.decode import Decode, derive_decode
from parallel_ar.layers import recurrence
from parallel_ar.layers import remat as remat_policies
from parallel_ar.models.sequence import sequence_model
from parallel_ar.types import Array, ArrayLike, Context


class Block(nn.Module):
  """Pre-norm recurrence and MLP."""

  cell: recurrence.Cell
  state_features: int
  mlp_features: int
  evaluation: recurrence.Evaluation
  chunk: int
  damping: float
  tolerance: float
  dtype: Any

  @nn.compact
  def __call__(self, y_LN: Array) -> Array:
    width = y_LN.shape[-1]
    layer = recurrence.Recurrence(
      self.cell,
      self.state_features,
      self.evaluation,
      self.chunk,
      self.damping,
      self.tolerance,
      self.dtype,
      name='recurrence',
    )
    z = nn.LayerNorm(dtype=self.dtype, name='norm_recurrence')(y_LN)
    z = nn.Dense(width, dtype=self.dtype, name='out')(layer(z))
    y_LN = partition.over_slots(y_LN + z, None)
    z = nn.LayerNorm(dtype=self.dtype, name='norm_mlp')(y_LN)
    z = nn.Dense(self.mlp_features, dtype=self.dtype, name='up')(z)
    z = partition.over_slots(z, None, 'tensor')
    z = nn.Dense(width, dtype=self.dtype, name='down')(nn.gelu(z))
    return partition.over_slots(y_LN + z, None)


class Recurrent(nn.Module):
  """The body; see `recurrent` for the attributes."""

  cell: recurrence.Cell
  layers: int
  state_features: int
  mlp_features: int
  evaluation: recurrence.Evaluation
  chunk: int
  damping: float
  tolerance: float
  remat: str
  dtype: Any

  @nn.compact
  def __call__(self, y_LN: Array, context: Context) -> Array:
    del context  # joined y_0
    block = remat_policies.remat(Block, self.remat)
    for l in range(self.layers):
      y_LN = block(
        self.cell,
        self.state_features,
        self.mlp_features,
        self.evaluation,
        self.chunk,
        self.damping,
        self.tolerance,
        self.dtype,
        name=f'block_{l}',
      )(y_LN)
    return nn.LayerNorm(dtype=self.dtype, name='norm')(y_LN)


def recurrent(
  *,
  event: Sequence[int],
  num_values: int,
  rank: ArrayLike | None = None,
  cell: recurrence.Cell = 'min_gru',
  features: int = 64,
  layers: int = 2,
  state_features: int = 0,
  mlp_features: int = 0,
  evaluation: recurrence.Evaluation = 'scan',
  chunk: int = 64,
  damping: float = 0.0,
  tolerance: float = 1e-6,
  num_classes: int = 0,
  context_size: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a recurrent network.

  Args:
    event: event shape E.
    num_values: V.
    rank: int[E], a total order; raster by default.
    cell: 'min_gru', 'min_lstm', 'rg_lru' or 'gru'.
    features: N of a block.
    layers: blocks.
    state_features: size of the state; 0 means N.
    mlp_features: width of the MLP; 0 means 2 N.
    evaluation: of a pass: 'scan', 'associative' or 'chunked' for the linear
      cells, 'scan', 'deer' or 'quasi_deer' for 'gru'. It changes speed, memory
      and rounding, not the function.
    chunk: steps of a tree, for 'chunked'.
    damping: of Newton's method, see `layers.deer`.
    tolerance: at which Newton's method stops.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters and states are float32.

  Returns:
    The model. Newton's method stops when the slowest state has converged, so a
    later symbol can change the rounding of an earlier conditional: such models
    declare causality 'rounding'.

  Raises:
    ValueError: a cell or an evaluation that does not fit, or a rank with ties.
  """
  recurrence.check(cell, evaluation)

  def record(evaluation: recurrence.Evaluation) -> model.AutoregressiveModel:
    body = Recurrent(
      cell,
      layers,
      state_features or features,
      mlp_features or 2 * features,
      evaluation,
      chunk,
      damping,
      tolerance,
      remat,
      dtype,
    )
    newton = evaluation in ('deer', 'quasi_deer')
    return sequence_model(
      body,
      event=event,
      num_values=num_values,
      rank=rank,
      features=features,
      num_classes=num_classes,
      context_size=context_size,
      dtype=dtype,
      name='recurrent',
      causality='rounding' if newton else 'exact',
    )

  made = record(evaluation)
  if evaluation == 'scan':
    return made
  return dataclasses.replace(made, decode=_step_by_step(record('scan')))


def _step_by_step(plain: model.AutoregressiveModel) -> Decode:
  """The derived path of the plain loop, for a pass that is evaluated otherwise.

  Of Newton's method nothing can be cut, and of a tree less than of a loop.
  """
  path = functools.partial(derive_decode, plain)
  return Decode(
    init=lambda params, context: path().init(params, context),
    extend=lambda params, *args: path().extend(params, *args),
    rewind=lambda cache, k: path().rewind(cache, k),
  )
