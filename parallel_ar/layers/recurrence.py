"""Recurrent layers whose states are computed in parallel over time.

Linear in the state, and so solved by one scan (`layers.scan`):

  minGRU   z = sigmoid(W_z x),  h_t = (1 - z_t) h_{t-1} + z_t (W_h x_t)
  minLSTM  f, i = sigmoid(W_f x), sigmoid(W_i x), divided by f + i,
           h_t = f_t h_{t-1} + i_t (W_h x_t)
  RG-LRU   r, i = sigmoid(W_r x), sigmoid(W_i x),  a = exp(-8 softplus(p) r),
           h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t (W_h x_t)

Not linear, and solved step by step or by Newton's method (`layers.deer`):

  GRU      r, z = sigmoid(W x + U h_{t-1}),  n = tanh(W_n x + r U_n h_{t-1})
           h_t = (1 - z_t) n_t + z_t h_{t-1}

References:
  Feng et al.: Were RNNs all we needed? 2024, section 3 (minGRU, minLSTM).
  De et al.: Griffin. 2024, section 2.4 (RG-LRU).
  Cho et al.: Learning phrase representations using RNN encoder-decoder. EMNLP
  2014 (GRU).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import partition
from parallel_ar.layers import deer, sharded
from parallel_ar.types import Array

Cell = Literal['min_gru', 'min_lstm', 'rg_lru', 'gru']
LINEAR = ('min_gru', 'min_lstm', 'rg_lru')
Evaluation = Literal['scan', 'associative', 'chunked', 'deer', 'quasi_deer']
_DECAY = 8.0  # c of RG-LRU
_LEAST = 1e-30  # of 1 - a^2


class Recurrence(nn.Module):
  """One recurrent layer over slots.

  Attributes:
    cell: which recurrence.
    size: N of the state.
    evaluation: how a whole sequence is computed; linear cells take those of
      `layers.scan`, 'gru' takes 'scan', 'deer' and 'quasi_deer'.
    chunk: of 'chunked'.
    damping: of Newton's method.
    tolerance: of Newton's method.
    dtype: of the products; parameters are float32, and so are states.
  """

  cell: Cell
  size: int
  evaluation: Evaluation = 'scan'
  chunk: int = 64
  damping: float = 0.0
  tolerance: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_LN: Array) -> Array:
    """Maps all slots."""
    width = self.size * (2 if self.cell == 'min_gru' else 3)
    gates = nn.Dense(width, dtype=self.dtype, name='gates')(x_LN)
    spread = None if self.cell == 'gru' else 'tensor'  # h U needs all of h
    gates = gates.astype(jnp.promote_types(gates.dtype, jnp.float32))
    gates = partition.over_slots(gates, None, spread)
    start = jnp.zeros(self.size, gates.dtype)
    if self.cell == 'gru':
      h_LN = self._gru(gates, start)
    else:
      method: Any = self.evaluation
      run = sharded.linear_recurrence
      h_LN = run(*self._linear(gates), start, method, self.chunk)
    return partition.over_slots(h_LN, None, spread).astype(self.dtype)

  def _linear(self, gates: Array) -> tuple[Array, Array]:
    """Factors and terms of the cells that are linear in the state."""
    if self.cell == 'min_gru':
      z, h = jnp.split(gates, 2, -1)
      return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * h
    first, second, h = jnp.split(gates, 3, -1)
    if self.cell == 'min_lstm':
      # f / (f + i) of their logarithms: both may be shut, and 0 / 0.
      keep = jax.nn.log_sigmoid(first) - jax.nn.log_sigmoid(second)
      return jax.nn.sigmoid(keep), jax.nn.sigmoid(-keep) * h
    first, second = jax.nn.sigmoid(first), jax.nn.sigmoid(second)
    slow = self.param('decay', _decay_init, (self.size,), jnp.float32)
    log_a = -_DECAY * jax.nn.softplus(slow)[None] * first
    # The root of 0, a shut gate, has an infinite derivative.
    rest = jnp.maximum(-jnp.expm1(2 * log_a), _LEAST)
    return jnp.exp(log_a), jnp.sqrt(rest) * second * h

  def _gru(self, gates: Array, start: Array) -> Array:
    orthogonal = nn.initializers.orthogonal()
    shape = 3, self.size, self.size
    kernel = self.param('state', orthogonal, shape, jnp.float32)
    if self.evaluation == 'scan' and sharded.parts(len(gates)) > 1:
      raise ValueError(
        "A GRU evaluated by 'scan' computes one slot after another, which no "
        "mesh makes parallel. Set config.model.evaluation to 'deer' or "
        "'quasi_deer', or config.mesh.sequence to 1."
      )
    if self.evaluation == 'scan':

      def step(h: Array, u: Array) -> tuple[Array, Array]:
        h = gru_step(kernel, h, u)
        return h, h

      return jax.lax.scan(step, start, gates)[1]
    quasi = self.evaluation == 'quasi_deer'
    return deer.solve(
      gru_step,
      kernel,
      gates,
      self.size,
      diagonal=gru_diagonal if quasi else None,
      damping=self.damping,
      tolerance=self.tolerance,
      bound=1.0,
    ).states


class _Gates(NamedTuple):
  reset: Array
  keep: Array
  turned: Array  # U_n h
  new: Array


def gru_step(kernel: Array, h: Array, u: Array) -> Array:
  """The next state of a GRU.

  Args:
    kernel: float[3, N, N], U_r, U_z and U_n.
    h: float[N], the state.
    u: float[3 N], W x + b of the three gates.

  Returns:
    float[N], within [-1, 1] if h is.
  """
  g = _gru_gates(kernel, h, u)
  return (1 - g.keep) * g.new + g.keep * h


def gru_diagonal(kernel: Array, h: Array, u: Array) -> Array:
  """d h'_n / d h_n of `gru_step`, float[N]."""
  g = _gru_gates(kernel, h, u)
  r, z, n = (jnp.diagonal(k) for k in kernel)
  keep = g.keep * (1 - g.keep) * z
  reset = g.reset * (1 - g.reset) * r
  new = (1 - g.new**2) * (reset * g.turned + g.reset * n)
  return g.keep + keep * (h - g.new) + (1 - g.keep) * new


def _gru_gates(kernel: Array, h: Array, u: Array) -> _Gates:
  r, z, n = jnp.split(u, 3)
  reset = jax.nn.sigmoid(r + h @ kernel[0])
  keep = jax.nn.sigmoid(z + h @ kernel[1])
  turned = h @ kernel[2]
  return _Gates(reset, keep, turned, jnp.tanh(n + reset * turned))


def _decay_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
  """a^c uniform in 0.9..0.999 at an open gate, as in Griffin, section 2.4."""
  a = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
  return jnp.log(jnp.expm1(-jnp.log(a) / _DECAY))


def check(cell: str, evaluation: str) -> None:
  """Checks that an evaluation fits a cell.

  Raises:
    ValueError: an unknown cell, or an evaluation that it does not take.
  """
  choices = ('scan', 'deer', 'quasi_deer')
  if cell in LINEAR:
    choices = ('scan', 'associative', 'chunked')
  elif cell != 'gru':
    raise ValueError(
      f'cell must be one of {", ".join(LINEAR)}, gru; got {cell!r}.'
    )
  if evaluation not in choices:
    raise ValueError(
      f'A {cell} is evaluated by one of {", ".join(choices)}; got '
      f'{evaluation!r}.'
    )
