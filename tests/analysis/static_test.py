"""The static audit: sound, exact where it can be, and it names the culprit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import plain, scans
from parallel_ar import heads, model, order
from parallel_ar.analysis import causality, static
from parallel_ar.testing import case as cases
from parallel_ar.testing import leaks

LENGTH = 6
LOWER = np.tril(np.ones((LENGTH, LENGTH), bool), -1)

# The operation that each planted leak is made by, and a word of its line.
SUSPECTS = {
  'made_same_degree': ('dot_general', 'dense.py'),
  'first_layer_type_b': ('conv_general_dilated', 'conv.py'),
  'rows_with_own': ('conv_general_dilated', 'conv.py'),
  'channels_mixed': ('conv_general_dilated', 'conv.py'),
  'groups_confused': ('dot_general', 'dense.py'),
  'shift_forgotten': ('dot_general', 'attention.py'),
  'attention_unmasked': ('dot_general', 'in _attend'),
  'attention_masked_softly': ('dot_general', 'in _attend'),
  'softmax_over_the_sequence': ('reduce_max', 'softmax_over_the_sequence'),
  'norm_over_time': ('reduce_sum', 'norm_over_time'),
  'pooled_over_time': ('reduce_max', 'pooled_over_time'),
  'sorted_over_time': ('sort', 'sorted_over_time'),
  'fft_wraps_around': ('fft', 'fft_wraps_around'),
  'padded_on_both_sides': ('sub', 'padded_on_both_sides'),
  'causal_by_slot': ('cumsum', 'causal_by_slot'),
  'order_ignored': ('cumsum', 'causal_by_slot'),
  'scanned_from_the_end': ('add', 'in step'),
  'routed_over_tokens': ('top_k', 'routed_over_tokens'),
  'dropped_by_the_data': ('reduce_sum', 'dropped_by_the_data'),
  'head_over_positions': ('reduce_sum', 'leaks.py'),
  'masked_by_the_data': ('dot_general', 'in _attend'),
  'closed_by_the_data': ('dot_general', 'in _attend): a row may be wholly'),
  'attention_masked_by_zero': ('dot_general', 'attention_masked_by_zero'),
  'zero_times_infinity': ('mul', 'zero_times_infinity): a factor of zero'),
  'branch_on_the_end': ('cond', 'branch_on_the_end'),
  'switch_by_the_count': ('cond', 'switch_by_the_count'),
  'any_over_the_sequence': ('reduce_or', 'any_over_the_sequence'),
  'gated_by_the_next': ('mul', 'gated_by_the_next'),
  'fft_low_pass': ('fft', 'fft_low_pass'),
  'fft_of_gates': ('fft', 'fft_of_gates'),
  'median_over_time': ('sort', 'median_over_time'),
  'scaled_by_the_range': ('reduce_max', 'scaled_by_the_range'),
  'rolled_around': ('cumsum', 'rolled_around'),
}


def of(fn, length=LENGTH, num_values=2, **fields):
  """The static audit of a function of floats x_j in place of logits."""
  record = model.from_function(
    lambda params, x, context: fn(x.astype(jnp.float32)),
    event=(length,),
    rank=order.raster(length),
    head=heads.bernoulli(),
  )
  return static.check(record, **fields)


@pytest.mark.parametrize('leak', leaks.GALLERY, ids=lambda leak: leak.name)
def test_agrees_on_every_planted_leak(leak):
  """It finds what the perturbations find, and names the operation.

  Where only some event leaks, it says so as a doubt, on the same line.
  """
  record = leak.build()
  found = static.check(record)
  case = cases.make_case(record)
  measured = causality.audit(record, case.params, case.keys[0])
  told, not_told = found.leaks, found.undecided
  if not leak.certain:
    told, not_told = not_told, told
  assert set(measured.leaks) <= set(told)
  assert leak.pair in told and leak.pair in measured.leaks
  assert (measured.matrix <= found.may).all()
  assert not not_told and not found.without_rule
  (finding,) = found.findings
  assert finding.leak == leak.certain
  operation, word = SUSPECTS[leak.name]
  assert finding.suspect.operation == operation
  assert word in str(finding.suspect)
  assert finding.pair in told
  if leak.certain:
    with pytest.raises(ValueError, match=f'NOT CAUSAL.*{operation}'):
      found.raise_if_leaks()


# What a function reads exactly: name -> (function, bool[D, D]).
EXACT = {
  'matrix': (lambda x: jnp.asarray(LOWER, jnp.float32) @ x, LOWER),
  'where': (lambda x: jnp.where(LOWER, x[None], 0.0).sum(1), LOWER),
  'product of masks': (
    lambda x: (jnp.tril(jnp.ones((6, 6)), -1) * x[None]).sum(1),
    LOWER,
  ),
  'softmax of minus infinity': (
    lambda x: (
      jax.nn.softmax(
        jnp.where(jnp.tril(jnp.ones((6, 6))) > 0, jnp.outer(x, x), -jnp.inf)
      )
      @ jnp.ones(6)
    ),
    LOWER | np.eye(6, dtype=bool),
  ),
  'softmax of -1e9': (
    lambda x: jax.nn.softmax(
      x[None] + jnp.where(LOWER | np.eye(6, dtype=bool), 0, -1e9), -1
    ).sum(1),
    LOWER | np.eye(6, dtype=bool),
  ),
  'reverse sum': (
    lambda x: jnp.flip(jnp.cumsum(jnp.flip(x))) - x,
    LOWER.T | np.eye(6, dtype=bool),
  ),
  'associative scan': (
    lambda x: jnp.pad(jax.lax.associative_scan(jnp.add, x)[:-1], (1, 0)),
    LOWER,
  ),
  'windows': (
    lambda x: jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, (2,), (1,), [(1, 0)]
    ),
    np.eye(6, dtype=bool) | np.eye(6, k=-1, dtype=bool),
  ),
  'known order': (lambda x: x[np.argsort([5, 4, 3, 2, 1, 0])], np.eye(6)[::-1]),
  'roll in a loop': (
    lambda x: jax.lax.fori_loop(0, 2, lambda n, x: jnp.roll(x, 1), x),
    np.roll(np.eye(6), 2, 0),
  ),
  'update': (
    lambda x: jnp.zeros(6).at[jnp.array([4, 5])].set(x[:2]).at[0].add(x[5]),
    np.eye(6, k=-4) + np.eye(6, k=5),
  ),
  'update in a loop': (
    lambda x: jax.lax.fori_loop(
      1, 6, lambda n, y: y.at[n].set(y[n - 1] + x[n - 1]), jnp.zeros(6)
    ),
    LOWER,
  ),
  'padded FFT': (
    lambda x: jnp.fft.irfft(
      jnp.fft.rfft(x, 12) * jnp.fft.rfft(jnp.arange(6.0), 12), 12
    )[:6],
    LOWER,
  ),
  'branch known': (
    lambda x: jax.lax.cond(True, lambda x: x, lambda x: x[::-1], x),
    np.eye(6),
  ),
  'top': (
    lambda x: jnp.zeros(6).at[:2].set(jax.lax.top_k(x, 2)[0]),
    np.arange(6)[:, None] < 2,
  ),
  'remat': (
    lambda x: jax.checkpoint(jnp.cumsum)(jnp.sin(x)),
    LOWER | np.eye(6, dtype=bool),
  ),
}


@pytest.mark.parametrize('name', EXACT)
def test_what_is_read_is_exact(name):
  fn, want = EXACT[name]
  found = of(fn)
  want = np.broadcast_to(np.asarray(want) > 0, (6, 6))
  # The term of the likelihood reads x_i too, but that does not count.
  np.testing.assert_array_equal(found.may, want)
  np.testing.assert_array_equal(found.firm, want)
  assert not found.without_rule


@pytest.mark.parametrize('chunk', [1, 4, 64])
def test_chunks_change_nothing(chunk):
  found = of(EXACT['softmax of -1e9'][0], chunk=chunk)
  np.testing.assert_array_equal(found.may, np.tril(np.ones((6, 6), bool)))


UNDECIDED = {
  'data-dependent place': (
    lambda x: jax.lax.dynamic_slice(
      jnp.pad(x, (6, 6)), (x[0].astype(int),), (6,)
    ),
    'dynamic_slice',
  ),
  'data-dependent stop': (
    lambda x: jax.lax.while_loop(
      lambda y: y.sum() < 9, lambda y: y + 1, jnp.cumsum(x)
    ),
    'while',
  ),
  'FFT of products': (
    lambda x: jnp.fft.irfft(jnp.fft.rfft(x, 12) * jnp.fft.rfft(x, 12), 12)[:6],
    'fft',
  ),
}


@pytest.mark.parametrize('name', UNDECIDED)
def test_what_cannot_be_decided_is_not_called_a_leak(name):
  fn, operation = UNDECIDED[name]
  found = of(lambda x: jnp.pad(fn(x)[:-1], (1, 0)))
  assert not found.leaks and found.undecided and not found.proved
  (finding,) = found.findings
  assert not finding.leak and finding.suspect.operation == operation
  assert 'Cannot decide' in found.describe()
  found.raise_if_leaks()


def test_an_operation_without_a_rule_may_read_everything():
  found = of(lambda x: jnp.linalg.cholesky(jnp.outer(x, x) + 9 * jnp.eye(6))[0])
  assert 'cholesky' in found.without_rule and found.undecided
  assert 'Without a rule: cholesky' in found.describe()


def test_loops_too_long_to_lay_out_are_settled():
  """A loop of many steps is run to its fixed point, which is sound."""

  def fn(x):
    step = lambda h, n: (jnp.roll(h, 1) + 0 * n, None)
    h, _ = jax.lax.scan(step, x, jnp.arange(10**6))
    return h

  found = of(fn)
  assert found.may.all()


def test_parameters_count_as_any_number():
  """A weight that is zero today is read all the same."""
  record = model.from_function(
    lambda w, x, context: w @ x.astype(jnp.float32),
    event=(4,),
    rank=order.raster(4),
    head=heads.bernoulli(),
    init=lambda key: jnp.zeros((4, 4)),
  )
  assert static.check(record).may.all()


# What may hold for some input or parameters, and a word of the reason.
DOUBTS = {
  'a row may be wholly masked': (
    lambda x: (
      jax.nn.softmax(
        jnp.where(
          (LOWER | np.eye(6, dtype=bool)) & (x > 0)[None],
          jnp.outer(x, x),
          -1e9,
        )
      )
      @ x
    ),
    'wholly masked',
  ),
  'zero times log': (lambda x: (LOWER * jnp.log(x)[None]).sum(1), 'infinite'),
  'zero times exp': (
    lambda x: (LOWER * jnp.exp(200 * x)[None]).sum(1),
    'infinite',
  ),
  'zero times a root': (
    lambda x: jnp.where(LOWER, 1.0, 0.0) @ jnp.sqrt(-x),
    'infinite',
  ),
  'zero over x': (lambda x: jnp.cumsum(x) - x + (0.0 / x).sum(), 'infinite'),
}


@pytest.mark.parametrize('name', DOUBTS)
def test_a_doubt_is_told_and_never_proved(name):
  fn, why = DOUBTS[name]
  found = of(lambda x: jnp.nan_to_num(jnp.pad(fn(x)[:-1], (1, 0))))
  assert not found.proved and found.undecided and not found.leaks
  assert why in found.describe() and 'static_test.py' in found.describe()


BOUNDED = {
  'a mask that the alphabet decides': lambda x: (
    jax.nn.softmax(
      jnp.where((np.tril(np.ones((6, 6))) > 0) & (x + 1 > 0)[None], 0.0, -1e9)
    )
    @ jnp.pad(x[:-1], (1, 0))
  ),
  'zero times a small exponential': lambda x: (
    LOWER * jnp.exp(3 * x)[None]
  ).sum(1),
  'a root of what is not negative': lambda x: (
    jnp.where(LOWER, 1.0, 0.0) @ jnp.sqrt(1 + x * x)
  ),
}


@pytest.mark.parametrize('name', BOUNDED)
def test_what_bounds_decide_is_proved(name):
  assert of(BOUNDED[name]).proved


def test_a_spectrum_of_parameters_stands_for_all():
  """A gate that is closed for most parameters is open for some."""
  record = model.from_function(
    lambda p, x, context: jnp.fft.irfft(
      jnp.fft.rfft(x.astype(jnp.float32)) * jax.nn.relu(p - 5), 6
    ),
    event=(6,),
    rank=order.raster(6),
    head=heads.bernoulli(),
    init=lambda key: jnp.zeros(4),
  )
  assert static.check(record).leaks


def test_a_proof_says_what_it_assumes():
  text = of(lambda x: jnp.asarray(LOWER, jnp.float32) @ x).describe()
  assert 'Proved causal' in text and 'Assumed: ' in text


# What is said where it is no proof: Newton's steps may overflow.
CANNOT = {'deer_gru': 'a factor of zero meets'}


@pytest.mark.parametrize('build', plain.MODELS + scans.MODELS)
def test_public_kinds_of_models(build):
  """Both audits; what neither may do is to find a leak that is none."""
  record = build()
  found = static.check(record)
  if record.name in CANNOT:
    assert found.undecided and not found.leaks
    assert CANNOT[record.name] in found.describe()
  else:
    assert found.proved, found.describe()
  params = record.init(jax.random.key(1))
  measured = causality.audit(
    record, params, jax.random.key(0), num_events=1, num_values=2
  )
  assert not measured.leaks, measured.describe()
  assert measured.matrix.any() and (measured.matrix <= found.may).all()


def test_a_transform_that_is_not_padded_wraps_around():
  """The twin of a causal model: its FFT has as many samples as symbols."""
  record = scans.s4d(size=8)
  found = static.check(record)
  assert found.leaks and 'fft' in found.describe()
  params = record.init(jax.random.key(1))
  measured = causality.audit(record, params, jax.random.key(0))
  assert set(measured.leaks) <= set(found.leaks)
  assert measured.leaks and not measured.rounding


def test_a_mask_off_by_one_in_a_block_is_blamed_not_the_sum_behind_it():
  """Residual sums and norms repeat what attention let in."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((6, 6), bool), 1)
    for _ in range(2):
      scores = jnp.where(mask, h @ h.T, -1e9)
      h = h + jax.nn.softmax(scores, -1) @ h
      h = h + jax.nn.gelu(h @ params['w'])
    return h

  found = static.check(plain.model_of(6, 3, {'w': (8, 8)}, fn))
  (finding,) = found.findings
  assert found.leaks and finding.suspect.operation == 'dot_general'
  assert 'static_test.py' in str(finding.suspect)


def test_a_leak_by_infinity_is_no_proof():
  """0 * inf is nan: the mask multiplies what may be infinite."""

  def fn(x):
    return jnp.nan_to_num((LOWER * jnp.log(x)[None]).sum(1), nan=1.0)

  record = model.from_function(
    lambda params, x, context: fn(x.astype(jnp.float32)),
    event=(6,),
    rank=order.raster(6),
    head=heads.bernoulli(),
  )
  found = static.check(record)
  measured = causality.audit(record, {}, jax.random.key(0))
  assert measured.leaks and not found.proved
  assert set(measured.leaks) <= {*found.leaks, *found.undecided}


def test_a_window_that_padding_may_close_cannot_be_decided():
  found = static.check(plain.padded(window=3))
  assert not found.leaks and found.undecided
  assert 'wholly masked' in found.describe()


def test_a_comparison_of_computed_bounds_may_go_one_way_only():
  """x - x is 0, which bounds alone do not tell: a doubt, and no leak."""
  y = lambda x: jnp.asarray(LOWER, jnp.float32) @ x
  found = of(lambda x: y(x) + ((x * x - x).sum() > 0.5))
  assert not found.leaks and found.undecided
  assert of(lambda x: y(x) + (x[5] > 0.5)).leaks
