r"""Attention and recurrences over slots that are spread over `sequence`.

Device i of S holds the slots i L / S .. (i + 1) L / S - 1 of an example, and no
device ever holds more: one sequence can be longer than the memory of a device,
and all its conditionals still come from one compiled pass.

  attention    keys and values go round a ring of devices; each device keeps its
               queries and adds up the softmax over the blocks that pass by:
                 m' = max(m, s),  l' = l e^(m - m') + sum e^(s - m'),
                 o' = o e^(m - m') + e^(s - m') v,  at the end o / l
               Blocks of later slots pass unread. The backward pass goes round
               once more with the gradients of keys and values, and keeps
               nothing but o, m + log l and the device's own q, k and v.
  recurrence   each device composes its steps into one, h -> A h + B; these S
               pairs are exchanged, and then every device runs its own slots
               from the state that the devices before it leave.

On a mesh without `sequence`, or of size 1 there, these are the functions of
`layers.attention` and `layers.scan`.

References:
  Liu, Zaharia, Abbeel: Ring attention with blockwise transformers for
  near-infinite context. 2023, Algorithm 1.
  Milakov, Gimelshein: Online normalizer calculation for softmax. 2018.
  Martin, Cundy: Parallelizing linear recurrent neural nets over sequence
  length. ICLR 2018, section 2.2 (chunks of a scan).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from parallel_ar import partition
from parallel_ar.layers import scan
from parallel_ar.types import Array

_AXIS = 'sequence'
_LOW = float(jnp.finfo(jnp.float32).min)


class Reach(NamedTuple):
  """Which slots before it a slot reads.

  Attributes:
    block: slots of one block see each other; 1 is plain causal attention.
    window: only the last `window` slots; 0: all.
    stride: only every `stride`-th slot back; 1: every one.
  """

  block: int = 1
  window: int = 0
  stride: int = 1


def parts(length: int) -> int:
  """S, into how many parts the slots of a pass are cut; 1 on no mesh.

  Raises:
    ValueError: S does not divide the slots.
  """
  count = partition.axis_size(_AXIS)
  if length % count:
    raise ValueError(
      f'{length} slots cannot be spread over sequence = {count} devices. '
      'Choose a config.mesh.sequence that divides the length of the event.'
    )
  return count


def ring_attention(
  q_LHK: Array, k_LHK: Array, v_LHK: Array, reach: Reach, chunk: int = 0
) -> Array:
  """softmax(q k^T / sqrt(K)) v over slots spread over `sequence`.

  A device computes at most the scores of `chunk` queries and L / S keys at
  once. Scores and the softmax are float32. The last device meets every block
  and the first one only its own, so a pass takes the time of all S blocks
  although half of them are skipped.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    reach: which slots are read.
    chunk: queries to take at once; 0 takes 64, and a 32nd of L / S where that
      is more.

  Returns:
    float[L, H, K].

  Raises:
    ValueError: S does not divide L, or L / S is no multiple of a block.
  """
  count = parts(q_LHK.shape[0])
  own = q_LHK.shape[0] // count
  if own % reach.block:
    raise ValueError(
      f'Groups of {reach.block} slots lie across the borders of {count} parts '
      f'of {own} slots. Choose another config.mesh.sequence.'
    )
  chunk = min(chunk or max(64, own // 32), own)
  while own % chunk:
    chunk -= 1  # the largest that divides
  ring = _Ring(count, own, chunk, reach)
  local = functools.partial(_attend, ring)
  return _over_slots(local, 3)(q_LHK * q_LHK.shape[-1] ** -0.5, k_LHK, v_LHK)


def linear_recurrence(
  a_LN: Array, b_LN: Array, start_N: Array, method: scan.Method, chunk: int = 64
) -> Array:
  """All states of h_t = a_t h_{t-1} + b_t of a whole sequence.

  Args:
    a_LN: float[L, ...], factors.
    b_LN: float[L, ...], terms.
    start_N: float[...], the state before the first.
    method: of `layers.scan`, for the slots of one device.
    chunk: of 'chunked'.

  Returns:
    float[L, ...], the states.

  Raises:
    ValueError: S does not divide L.
  """
  if parts(a_LN.shape[0]) == 1:
    return scan.linear_recurrence(a_LN, b_LN, start_N, method, chunk)

  def local(a: Array, b: Array, start: Array) -> Array:
    before = _state_before(scan.compose, a, b, start)
    return scan.linear_recurrence(a, b, before, method, chunk)

  return _over_slots(local, 2, 1)(a_LN, b_LN, start_N)


def matrix_recurrence(a_LNN: Array, b_LN: Array) -> Array:
  """All states of h_t = A_t h_{t-1} + b_t from zero, of a whole sequence.

  Args:
    a_LNN: float[L, N, N], factors.
    b_LN: float[L, N], terms.

  Returns:
    float[L, N].

  Raises:
    ValueError: S does not divide L.
  """
  if parts(a_LNN.shape[0]) == 1:
    return scan.matrix_recurrence(a_LNN, b_LN)

  def local(a: Array, b: Array) -> Array:
    zero = jnp.zeros_like(b[0])
    before = _state_before(scan.compose_matrices, a, b, zero)
    first = b[:1] + (a[:1] @ before[:, None])[..., 0]
    return scan.matrix_recurrence(a, jnp.concatenate([first, b[1:]]))

  return _over_slots(local, 2)(a_LNN, b_LN)


def _over_slots(local: Callable, spread: int, whole: int = 0) -> Callable:
  """`local` on the slots of each device; `tensor` stays automatic.

  The axes of the batch are manual too, since that is what `partition.vmap`
  then spreads the batch over: no spec here names them.
  """
  slots, every = PartitionSpec(_AXIS), PartitionSpec()
  return jax.shard_map(
    local,
    in_specs=(slots,) * spread + (every,) * whole,
    out_specs=slots,
    axis_names={_AXIS, *partition.BATCH},
    check_vma=False,
  )


def _state_before(compose: Callable, a: Array, b: Array, start: Array) -> Array:
  """The state before the first slot of this device."""
  gathered = jax.lax.all_gather(_total(compose, (a, b)), _AXIS)

  def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
    factor, term = at
    moved = factor @ h if factor.ndim > h.ndim else factor * h
    return moved + term, h

  _, before = jax.lax.scan(step, start, gathered)
  return before[jax.lax.axis_index(_AXIS)]


def _total(compose: Callable, steps: Any) -> Any:
  """All steps as one, by a tree of depth O(log L)."""
  length = jax.tree.leaves(steps)[0].shape[0]
  if length == 1:
    return jax.tree.map(lambda leaf: leaf[0], steps)
  take = lambda cut: jax.tree.map(lambda leaf: leaf[cut], steps)
  if length % 2:
    last = take(-1)
    return compose(_total(compose, take(slice(length - 1))), last)
  pairs = compose(take(slice(0, None, 2)), take(slice(1, None, 2)))
  return _total(compose, pairs)


class _Ring(NamedTuple):
  """The static facts of one ring."""

  parts: int  # S
  own: int  # L / S
  chunk: int
  reach: Reach

  @property
  def turns(self) -> int:
    """How many devices back keys are read."""
    if not self.reach.window:
      return self.parts - 1
    return min(self.parts - 1, -(-(self.reach.window - 1) // self.own))

  def shift(self, tree: Any, by: int = 1) -> Any:
    """Hands a tree to the device `by` places on."""
    pairs = [(d, (d + by) % self.parts) for d in range(self.parts)]
    return jax.tree.map(lambda a: jax.lax.ppermute(a, _AXIS, pairs), tree)

  def mask(self, c: Array, i: Array, j: Array) -> Array:
    """bool[chunk, L / S]: what chunk c of device i reads of the keys of j."""
    query = (i * self.own + c * self.chunk + jnp.arange(self.chunk))[:, None]
    key = (j * self.own + jnp.arange(self.own))[None]
    block, window, stride = self.reach
    reads = query // block >= key // block
    if window:
      reads &= key > query - window
    if stride > 1:
      reads &= (query - key) % stride == 0
    return reads

  def chunks(self, tree: Any) -> Any:
    """[H, L / S, ...] -> [chunks, H, chunk, ...], of every leaf."""

    def cut(a: Array) -> Array:
      shape = a.shape[0], -1, self.chunk, *a.shape[2:]
      return jnp.moveaxis(a.reshape(shape), 1, 0)

    return jax.tree.map(cut, tree)

  def joined(self, tree: Any) -> Any:
    """The inverse of `chunks`."""

    def join(a: Array) -> Array:
      a = jnp.moveaxis(a, 0, 1)
      return a.reshape(a.shape[0], self.own, *a.shape[3:])

    return jax.tree.map(join, tree)


def _heads_first(*arrays: Array) -> tuple[Array, ...]:
  return tuple(jnp.moveaxis(a, 1, 0) for a in arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: _Ring, q: Array, k: Array, v: Array) -> Array:
  """One device's part: its queries over every block it may read."""
  return _forward(ring, q, k, v)[0]


def _forward(ring: _Ring, q: Array, k: Array, v: Array) -> tuple:
  i = jax.lax.axis_index(_AXIS)
  q_HLK, k_HSK, v_HSK = _heads_first(q, k, v)
  queries = ring.chunks(q_HLK)

  def meet(state: Any, block: Any, j: Array) -> Any:
    k_HSK, v_HSK = block

    def one(at: Any) -> Any:
      c, q, (out, top, total) = at
      scores = (q @ k_HSK.mT).astype(jnp.float32)
      scores = jnp.where(ring.mask(c, i, j)[None], scores, _LOW)
      new = jnp.maximum(top, scores.max(-1))
      weights = jnp.exp(scores - new[..., None])
      fade = jnp.exp(top - new)
      added = (weights.astype(v_HSK.dtype) @ v_HSK).astype(jnp.float32)
      out = out * fade[..., None] + added
      return out, new, total * fade + weights.sum(-1)

    number = jnp.arange(queries.shape[0])
    return jax.lax.map(one, (number, queries, state))

  empty = jnp.zeros(queries.shape, jnp.float32)
  state = empty, jnp.full(empty.shape[:-1], _LOW), empty[..., 0]
  block = k_HSK, v_HSK
  state = meet(state, block, i)  # its own first: no row is empty after it

  def turn(carry: Any, s: Array) -> tuple:
    state, block = carry
    block = ring.shift(block)
    j = i - s
    state = jax.lax.cond(j >= 0, meet, lambda state, *_: state, state, block, j)
    return (state, block), None

  if ring.turns:
    steps = jnp.arange(1, ring.turns + 1)
    (state, _), _ = jax.lax.scan(turn, (state, block), steps)
  out, top, total = ring.joined(state)
  out = (out / total[..., None]).astype(v.dtype)
  norm = top + jnp.log(total)
  (y,) = _heads_first(out)
  return y, (q, k, v, out, norm)


def _backward(ring: _Ring, kept: tuple, grad: Array) -> tuple:
  i = jax.lax.axis_index(_AXIS)
  q, k, v, out, norm = kept
  q_HLK, k_HSK, v_HSK, grad = _heads_first(q, k, v, grad)
  inner = (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
  rows = ring.chunks((q_HLK, grad, norm, inner))

  def meet(dq: Array, block: Any, j: Array) -> tuple:
    k_HSK, v_HSK, dk, dv = block

    def one(carry: Any, at: Any) -> tuple:
      dk, dv = carry
      c, dq, (q, grad, norm, inner) = at
      scores = (q @ k_HSK.mT).astype(jnp.float32)
      scores = jnp.where(ring.mask(c, i, j)[None], scores, _LOW)
      weights = jnp.exp(scores - norm[..., None])
      slope = (grad @ v_HSK.mT).astype(jnp.float32) - inner[..., None]
      slope = (weights * slope).astype(q.dtype)
      dv += (weights.astype(grad.dtype).mT @ grad).astype(jnp.float32)
      dk += (slope.mT @ q).astype(jnp.float32)
      return (dk, dv), dq + (slope @ k_HSK).astype(jnp.float32)

    number = jnp.arange(dq.shape[0])
    (dk, dv), dq = jax.lax.scan(one, (dk, dv), (number, dq, rows))
    return dq, (k_HSK, v_HSK, dk, dv)

  zeros = jnp.zeros(k_HSK.shape, jnp.float32)
  dq = jnp.zeros(rows[0].shape, jnp.float32)
  dq, block = meet(dq, (k_HSK, v_HSK, zeros, zeros), i)

  def turn(carry: Any, s: Array) -> tuple:
    dq, block = carry
    block = ring.shift(block)
    j = i - s
    keep = lambda dq, block, j: (dq, block)
    return jax.lax.cond(j >= 0, meet, keep, dq, block, j), None

  if ring.turns:
    steps = jnp.arange(1, ring.turns + 1)
    (dq, block), _ = jax.lax.scan(turn, (dq, block), steps)
  dk, dv = ring.shift(block[2:], -ring.turns)
  return tuple(
    jnp.moveaxis(g, 0, 1).astype(a.dtype)
    for g, a in ((ring.joined(dq), q), (dk, k), (dv, v))
  )


_attend.defvjp(_forward, _backward)
