"""Who carries the integers of products, and what XLA is asked for."""

import importlib.util
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.distributed import topology
from parallel_ar.exact import (
  builder,
  carriers,
  of_program,
  operations,
  products,
  reference,
)
from parallel_ar.testing import exact_laws
from parallel_ar.testing.case import LawBroken
from tests.conformance import cases
from tests.exact_test import whole


def of_builder(b, out):
  return reference.Program(
    'products', (0,), (None,), b.constants, (), tuple(b.ops), out.id, b.shapes,
    b.bounds, np.zeros(2, np.int32), 16,
  )  # fmt: skip


def test_a_sum_of_floats_that_could_round_is_seen():
  case, found = whole('gated_label')
  text = exact_laws.pass_text(case, found)
  assert exact_laws.no_float_sum(found, text) > 0
  first = jax.tree.map(lambda leaf: leaf[0], case.context)
  floats = jax.jit(case.model.conditionals)
  text_of_floats = floats.lower(case.params, case.x[0], first).as_text()
  for wrong in (text_of_floats, text.replace('HIGHEST', 'DEFAULT')):
    with pytest.raises(LawBroken, match='Law 8'):
      exact_laws.no_float_sum(found, wrong)


@pytest.mark.parametrize('most', [0, 127, 128, 2**15 - 1, 2**15, 2**31 - 1])
def test_a_constant_keeps_its_ends(most):
  """128 has no room in an int8 that -128 has."""
  b = builder.Builder()
  g = b.constant(np.array([-most, most]))
  assert b.constants[g.id].tolist() == [-most, most] == [g.low, g.high]


def one_product(most_left, most_right, cut=0, shape=(2, 96, 3)):
  """All entries as large as they may be, and of one sign: the worst case."""
  rows, entries, columns = shape
  a = np.full((rows, entries), most_left)
  w = np.full((entries, columns), -most_right)
  b = builder.Builder()
  left = b.input(a.shape, 1.0, -most_left, most_left)
  right = b.constant(w)
  most = entries * most_left * most_right
  out = b.op(
    'dot',
    [left, right],
    (-most, most),
    (rows, columns),
    dimensions=[[[1], [0]], [[], []]],
    partial=most,
    cut=cut,
  )
  return of_builder(b, out), a, a.astype(np.int64) @ w


@pytest.mark.parametrize(
  ('most', 'cut', 'chosen'),
  [
    ((127, 127), 1, 'int8'),
    ((16319, 127), 12, 'digits'),
    ((127, 16319), 12, 'digits'),
    ((128, 128), 1, 'float32'),
    ((417, 417), 1, 'float32'),  # 96 * 417^2 is just below 2^24
    ((16320, 127), 12, 'parts'),
    ((800, 800), 4, 'parts'),
    ((4700, 4700), 0, 'int32'),
  ],
)
def test_carriers_give_the_same_integers_at_the_bound(most, cut, chosen):
  program, a, want = one_product(*most, cut)
  assert (reference.run(program, a) == want).all()
  op = program.ops[0]
  assert carriers.choose(program, op, 'cpu') == chosen
  for carrier in {chosen, 'int32'}:
    got = carriers.run(program, program.constants, a, (), {op.output: carrier})
    assert (np.asarray(got) == want).all()


@pytest.mark.parametrize(
  ('shape', 'chosen'),
  [((2, 96, 4), 'float32'), ((1, 96, 4), 'int8'), ((4, 96, 8), 'int8'),
   ((4, 21, 8), 'float32'), ((4, 96, 6), 'float32')],
)  # fmt: skip
def test_a_gpu_takes_int8_by_words(shape, chosen):
  program, *_ = one_product(127, 127, shape=shape)
  assert carriers.choose(program, program.ops[0], 'gpu') == chosen
  assert carriers.choose(program, program.ops[0], 'cpu') == 'int8'


@pytest.mark.parametrize(
  ('most', 'chosen'),
  [((127, 127), 'int8'), ((256, 256), 'bfloat16'), ((256, 257), 'float32')],
)
def test_a_tpu_multiplies_bfloat16_at_once(most, chosen):
  program, a, want = one_product(*most)
  op = program.ops[0]
  assert carriers.choose(program, op, 'tpu') == chosen
  for carrier in {chosen, 'float32'}:
    got = carriers.run(program, program.constants, a, (), {op.output: carrier})
    assert (np.asarray(got) == want).all()


def test_roots_and_quotients_are_whole():
  numbers = np.array([0, 1, 2, 3, 4, 8, 9, 2**30 - 1, 2**30, 46340**2 - 1])
  root = operations.OPS['root']({}, jnp.asarray(numbers, jnp.int32))
  assert np.asarray(root).tolist() == [int(n**0.5) for n in numbers]
  want = reference.operations.OPS['root']({}, numbers)
  assert (np.asarray(root) == want).all()
  rng = np.random.default_rng(0)
  a, b = rng.integers(-999, 999, 200), rng.integers(1, 99, 200)
  for nearest in (False, True):
    p = {'shift': 3, 'nearest': nearest}
    got = operations.OPS['quotient'](p, jnp.asarray(a), jnp.asarray(b))
    want = reference.operations.OPS['quotient'](p, a, b)
    exact = np.floor(8 * a / b + (0.5 if nearest else 0))
    assert (np.asarray(got) == want).all()
    assert np.abs(want - exact).max() <= int(nearest)  # half of an odd b


@pytest.mark.parametrize('platform', ['gpu', 'tpu'])
def test_carriers_of_another_platform_give_the_same_integers(platform):
  case, found = whole('gated_label')
  other = of_program(found.report.program, case.model, platform)
  assert str(other.report) != str(found.report)
  if platform == 'tpu':  # patches of a GPU are moved as floats
    exact_laws.no_float_sum(other, exact_laws.pass_text(case, other))
  passes = (
    jax.jit(jax.vmap(m.conditionals, (None, 0, 0)))(p, case.x, case.context)
    for m, p, _ in (found, other)
  )
  want, got = map(np.asarray, passes)
  assert (want == got).all()


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu (pip)'
)
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name != 'gated_label'))
    for name in cases.CASES
    if 'deer' not in name
  ],
)
def test_xla_compiles_it_for_a_tpu(name):
  case, found = whole.__wrapped__(name)
  model, params, _ = of_program(found.report.program, case.model, 'tpu')
  chip = jax.sharding.SingleDeviceSharding(topology.devices('v5e:2x2')[0])
  args = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=chip),
    (params, jnp.asarray(case.x), case.context),
  )
  of = jax.jit(jax.vmap(model.conditionals, (None, 0, 0)))
  text = of.lower(*args).compile().as_text()
  assert ' f64[' not in text
  if name == 'gated_label':
    assert re.search(r's32\[[^=]*convolution', text)


CONVOLUTIONS = {
  'masked, as in a PixelCNN': {'pad': [[1, 1], [2, 0]]},
  'strides': {'strides': [2, 1], 'pad': [[2, 1], [0, 1]]},
  'spread and cut off': {'spread': [2, 3], 'pad': [[1, -1], [-2, 2]]},
  'dilated groups': {'dilation': [2, 1], 'groups': 2, 'pad': [[2, 2], [1, 1]]},
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_a_convolution_is_a_product_of_patches_on_a_gpu(name):
  p = {
    'strides': [1, 1], 'spread': [1, 1], 'dilation': [1, 1], 'groups': 1,
    'lhs': [0, 3, 1, 2], 'rhs': [3, 2, 0, 1], 'out': [0, 3, 1, 2],
    'partial': 2**20, 'cut': 3,
  } | CONVOLUTIONS[name]  # fmt: skip
  rng = np.random.default_rng(0)
  x = rng.integers(-99, 99, (2, 5, 6, 4))
  w = rng.integers(-9, 9, (3, 2, 4 // p['groups'], 6))
  want = reference.operations.OPS['conv'](p, x, w)
  op = reference.Op('conv', (0, 1), 2, p)
  rules = carriers._conv, carriers._patches
  for rule, kind in itertools.product(rules, ('int8', 'float32', 'int32')):
    got = rule(op, kind, jnp.asarray(x), jnp.asarray(w))
    assert (np.asarray(got) == want).all()
    if p['groups'] == 1:
      got = carriers._parts(op, rule, jnp.asarray(x), jnp.asarray(w))
      assert (np.asarray(got) == want).all()
  asked = jax.jit(lambda *a: carriers._patches(op, 'float32', *a))
  assert 'convolution' not in asked.lower(x, w).as_text()


def test_long_sums_are_cut():
  """By the weights themselves, so that no part reaches 2^24."""
  w = np.abs(np.random.default_rng(0).integers(-127, 128, (3, 700, 2)))
  most = 511
  cut = products._cut(w, (1, 0), most)  # the first summed axis is 1
  starts = range(0, 700, -(-700 // cut))
  assert len(starts) == cut == 5
  assert np.add.reduceat(w.sum(0), starts).max() * most < 2**24
  assert products._cut(np.full((4, 2), 2**14), (0,), 2**10) == 0
