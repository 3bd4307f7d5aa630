"""What may be read, against all events: nothing that is read may be missing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from parallel_ar import heads, model, order
from parallel_ar.analysis import static

LENGTH, VALUES = 4, 3
LOWER = np.tril(np.ones((LENGTH, LENGTH), bool), -1)


def audit(fn, weights=()):
  """The static audit, and bool[D, D] what any change of any event changes.

  Args:
    fn: (weights, float[D]) -> float[D].
    weights: for which it is run; the audit is for all.
  """
  weights = jnp.asarray(weights, jnp.float32)
  record = model.from_function(
    lambda w, x, context: jnp.stack([fn(w, x.astype(jnp.float32))] * 3, -1),
    event=(LENGTH,),
    rank=order.raster(LENGTH),
    head=heads.categorical(VALUES),
    init=lambda key: jnp.ones_like(weights),
  )
  events = np.array(list(itertools.product(range(VALUES), repeat=LENGTH)))
  run = jax.jit(jax.vmap(lambda x: fn(weights, x.astype(jnp.float32))))
  y = np.round(np.asarray(run(events), np.float32), 4) + 0.0  # one zero
  bits = y.view(np.uint32).reshape(*(VALUES,) * LENGTH, LENGTH)
  read = [
    (bits != bits.take([0], j)).reshape(-1, LENGTH).any(0)
    for j in range(LENGTH)
  ]
  return static.check(record), np.stack(read, 1)


def masked(y):
  """A causal sum by a mask of zeros, without infinities."""
  total = jnp.asarray(LOWER, jnp.float32) @ y
  return jnp.nan_to_num(total, nan=7.0, posinf=9.0, neginf=-9.0)


def signed(x):
  """0 or -0, as the last symbols say."""
  return 0.0 * (x[::-1] - 1.5)


def scores(w, x):
  """Scores of any size; -1e9 is added to what is masked."""
  return w * x[None] + jnp.where(LOWER, 0.0, -1e9)


def scaled_in_a_loop(w, x):
  turn = lambda c: (c[0] + 1, c[1] * 0.1)
  _, a = lax.while_loop(lambda c: c[0] < 2 * w, turn, (0.0, scores(w, x)))
  return jnp.exp(a) @ x


def a_zero_in_a_loop(w, x):
  """The turn after sees its sign."""
  turn = lambda c: (c[0] + 1, signed(x), jnp.clip(1.0 / c[1], -1, 1))
  start = 0.0, jnp.zeros(LENGTH), jnp.ones(LENGTH)
  return lax.while_loop(lambda c: c[0] < w, turn, start)[2]


def by_hidden_state(w, x):
  hidden = jax.new_ref(jnp.zeros(LENGTH))
  hidden[...] = x[::-1]
  return hidden[...]


UNSOUND = {
  'fewer bits': lambda w, x: jnp.where(
    lax.reduce_precision(jnp.float32(0.3), 5, 3) != jnp.float32(0.3), x, 0.0
  ),
  'fewer bits overflow': lambda w, x: masked(
    lax.reduce_precision(1e5 * x, 5, 10)
  ),
  'half is rounded away from zero': lambda w, x: lax.round(x[::-1] * 0.25),
  'or of integers': lambda w, x: jnp.where(
    lax.reduce_or(x.astype(int), (0,)) == 3, 1.0, jnp.zeros(LENGTH)
  ),
  'and of integers': lambda w, x: jnp.where(
    lax.reduce_and(x.astype(int) + 1, (0,)) == 0, 1.0, jnp.zeros(LENGTH)
  ),
  'over a signed zero': lambda w, x: jnp.clip(1.0 / signed(x), -1, 1),
  'angle of a signed zero': lambda w, x: jnp.arctan2(signed(x), -1.0),
  'sign of a zero': lambda w, x: jnp.copysign(2.0, signed(x)),
  'power of a signed zero': lambda w, x: jnp.clip(signed(x) ** -3, -1, 1),
  'complex angle': lambda w, x: jnp.angle(lax.complex(x * 0 - 1, signed(x))),
  'order of signed zeros': lambda w, x: 1.0 * lax.top_k(signed(x), LENGTH)[1],
  'bytes of each number': lambda w, x: (
    lax.bitcast_convert_type(x, jnp.uint8).sum(0).astype(jnp.float32)
  ),
  'a mask that is lifted': lambda w, x: jnp.exp(
    (scores(1e3 * w, x) + 1e9) / 1e3
  ).sum(1),
  'a mask that is scaled down': lambda w, x: jnp.exp(
    scores(5e6 * w, x) * 1e-3 * w * 1e-3 * 1e-3
  ).sum(1),
  'a mask that turns scale down': scaled_in_a_loop,
  'a zero that a turn leaves': a_zero_in_a_loop,
  'up and down': lambda w, x: (
    jnp.exp(((w * 1e3 * x[None] + 1e9) - 1e9) / 1e3).sum(1) + jnp.zeros(LENGTH)
  ),
  'spectrum times a threshold': lambda w, x: jnp.fft.irfft(
    jnp.fft.rfft(x) * (w > 5).astype(jnp.float32), LENGTH
  ),
  'imaginary spectrum': lambda w, x: (
    (1j * jnp.fft.ifft(jnp.fft.fft(1j * x[::-1]))).real
  ),
  'spectrum times infinity': lambda w, x: jnp.nan_to_num(
    jnp.fft.irfft(jnp.fft.rfft(x) * np.array([np.inf, 1, 1]), LENGTH),
    nan=3.0,
    posinf=5.0,
    neginf=-5.0,
  ),
  'faint spectrum': lambda w, x: (
    1e36 * jnp.fft.irfft(1e-36 * jnp.fft.rfft(x[::-1]), LENGTH)
  ),
  'a power that overflows': lambda w, x: masked((x * 1e37) ** 6),
  'a product that overflows': lambda w, x: masked(
    jnp.prod(jnp.stack([x * 1e10] * 5), 0)
  ),
  'a quotient below one': lambda w, x: jnp.where(
    (x[::-1] + 41.0) / 41.0 >= 1, 1.0, 0.0
  ),
  'by a hidden state': by_hidden_state,
}


@pytest.mark.parametrize('name', UNSOUND)
def test_nothing_that_is_read_is_missing(name):
  found, read = audit(UNSOUND[name], weights=6.0)
  assert (read & ~LOWER).any(), 'the case reads no future'
  assert (read <= found.may).all() and not found.proved


def routed(w, x):
  """Each symbol to one of two experts, which take two, the first first."""
  chosen = jax.nn.one_hot((x > 0.5).astype(int), 2, dtype=jnp.int32)
  place = jnp.cumsum(chosen, 0) * chosen - 1
  sent = jax.nn.one_hot(jnp.where(place < 2, place, -1), 2) * chosen[..., None]
  worked_on = jnp.einsum('tec,t->ec', sent, x) * w
  y = jnp.einsum('tec,ec->t', sent, worked_on)
  return jnp.pad(y[:-1], (1, 0))


def sum_before(tokens):
  return jnp.cumsum(tokens) - tokens


def two_masks(w, x):
  """The mask of the data is added before the causal one."""
  padding = jnp.where(x[None] > 0, 0.0, -1e9)
  causal = jnp.where(LOWER | np.eye(LENGTH, dtype=bool), 0.0, -1e9)
  return jax.nn.softmax((w * jnp.outer(x, x) + padding + causal) / 8, -1) @ x


def flash(w, x):
  """Attention key by key, with a running maximum."""

  def turn(carry, j):
    most, total, y = carry
    now = jnp.maximum(most, s[:, j])
    kept, new = jnp.exp(most - now), jnp.exp(s[:, j] - now)
    return (now, total * kept + new, y * kept + new * x[j]), None

  mask = jnp.where(LOWER | np.eye(LENGTH, dtype=bool), 0.0, -1e9)
  s = w * jnp.outer(x, x) + mask
  zeros = jnp.zeros(LENGTH)
  start = jnp.full(LENGTH, -jnp.inf), zeros, zeros
  _, total, y = lax.scan(turn, start, jnp.arange(LENGTH))[0]
  return y / total


HONEST = {
  'sum before': lambda w, x: 1.0 * sum_before(x.astype(int)),
  'sorted already': lambda w, x: jnp.pad(
    jnp.sort(lax.cummax(w * x))[:-1], (1, 0)
  ),
  'two masks': lambda w, x: two_masks(w, jnp.pad(x[:-1], (1, 0))),
  'key by key': lambda w, x: flash(w, jnp.pad(x[:-1], (1, 0))),
  'no softmax': lambda w, x: jax.nn.relu(scores(w, x)) @ x,
  'packed signals': lambda w, x: jnp.fft.ifft(
    jnp.fft.fft(lax.complex(x, 2 * x), 8) * jnp.fft.fft(w * np.eye(4)[1], 8)
  ).imag[:LENGTH],
}


def test_a_selection_by_the_data_cannot_be_decided():
  found, read = audit(routed, weights=0.5)
  assert not (read & ~LOWER).any() and not found.leaks and found.undecided


@pytest.mark.parametrize('name', HONEST)
def test_honest_twins_are_proved(name):
  found, read = audit(HONEST[name], weights=0.5)
  assert found.may.any() and (found.may[read]).all()
  if name == 'two masks':
    assert not found.leaks  # a row may be closed, as far as it is known
  else:
    assert found.proved, found.describe()
