"""Models in whole numbers: the same integers everywhere, or a refusal."""

import dataclasses
import functools
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import heads, models, order
from parallel_ar.coding import container, quantize
from parallel_ar.exact import of_program, reference
from parallel_ar.heads.discretized_logistic import from_outputs
from parallel_ar.samplers import path
from parallel_ar.testing.case import make_case
from tests.conformance import cases

ROOT = pathlib.Path(__file__).parents[1]


@functools.cache
def whole(name='made_blocks_vector'):
  """(case, its model in whole numbers), of 16 examples."""
  case = make_case(cases.CASES[name](), name=name, batch=16)
  return case, par.exact(case.model, case.params, case.x, case.context)


def numpy_pass(found, x, context):
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(context)]
  rows = [
    reference.run(found.report.program, x[n], *(leaf[n] for leaf in leaves))
    for n in range(len(x))
  ]
  return np.stack(rows)


class TestRecord:
  def test_it_is_close_to_the_float_model(self):
    case, _ = whole()
    found = par.exact(
      case.model,
      case.params,
      case.x,
      case.context,
      weight_bits=12,
      activation_bits=14,
    )
    # Of frequencies of as many bits: a rare symbol costs 16 bits in both.
    coded = quantize.quantized(case.model)
    want = par.log_prob(coded, case.params, case.x, case.context)
    got = par.log_prob(found.model, found.params, case.x, case.context)
    assert np.abs(np.asarray(got - want)).mean() < 0.02

  def test_bits_cost_what_they_should(self):
    case, coarse = whole()
    want = par.log_prob(case.model, case.params, case.x, case.context)
    error = lambda found: np.abs(
      np.asarray(want)
      - par.log_prob(found.model, found.params, case.x, case.context)
    ).mean()
    few = par.exact(
      case.model, case.params, case.x, case.context, weight_bits=3
    )
    assert error(few) > 2 * error(coarse)

  def test_rows_sum_to_a_power_of_two_and_all_have_a_code(self):
    case, found = whole()
    dist = jax.vmap(found.model.conditionals, (None, 0, 0))(
      found.params, case.x, case.context
    )
    assert dist.dtype == jnp.int32
    assert (np.asarray(dist).sum(-1) == 2**16).all()
    assert np.asarray(dist).min() >= 1

  def test_a_pick_is_the_symbol_that_owns_the_noise(self):
    head = whole()[1].model.head
    dist = jnp.array([[3, 65532, 1]])
    noise = [0, 2, 3, 65534, 65535]
    picks = [int(head.pick(dist, jnp.array([u]))[0]) for u in noise]
    assert picks == [0, 0, 1, 1, 2]

  def test_the_report_tells_the_carriers(self):
    text = str(whole()[1].report)
    for product in whole()[1].report.products:
      assert f'sums below {product.partial + 1}' in text
      assert product.carrier in text

  def test_cached_takes_no_pass_and_says_so(self):
    case, found = whole()
    args = found.params, case.keys, case.context
    sample = par.cached(found.model)(*args)
    want = par.ancestral(found.model)(*args)
    assert path.KINDS[int(sample.info.path)] == 'whole'
    assert not np.asarray(sample.info.passes).any()
    assert (np.asarray(sample.x) == np.asarray(want.x)).all()
    own = par.recompute_decode(found.model)
    given = par.cached(found.model, own)(*args)
    assert np.asarray(given.info.passes).all()  # a path of anyone is proved

  def test_integers_do_not_depend_on_the_batch(self):
    case, found = whole('made')
    keys = jax.random.split(jax.random.key(3), 64)
    draw = par.cached(found.model)
    want = np.asarray(draw(found.params, keys).x)
    for size in (1, 7):
      for start in (0, 13):
        some = slice(start, start + size)
        got = np.asarray(draw(found.params, keys[some]).x)
        assert (got == want[some]).all()

  def test_a_mesh_changes_nothing(self):
    case, found = whole('made')
    assert len(jax.devices()) == 8
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ('data', 'tensor'), axis_types=auto)
    place = lambda a, *spec: jax.device_put(
      a, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    )
    cut = lambda a: [None] * (a.ndim - 1) + ['tensor' * (a.shape[-1] % 4 == 0)]
    params = {
      name: place(a, *(axis or None for axis in cut(a)))
      for name, a in found.params.items()
    }
    assert any(not a.sharding.is_fully_replicated for a in params.values())
    of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, None)))
    got = of(params, place(jnp.asarray(case.x), 'data'), None)
    want = numpy_pass(found, case.x, case.context)
    assert (np.asarray(got) == want).all()

  def test_wide_numbers_change_nothing(self):
    case, found = whole('made')
    want = numpy_pass(found, case.x[:3], case.context)
    with jax.enable_x64(True):
      of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, None)))
      got = of(found.params, case.x[:3], None)
    assert (np.asarray(got) == want).all()

  def test_a_context_outside_of_its_range_is_brought_inside(self):
    case, found = whole()
    far = jax.tree.map(lambda leaf: leaf * 1e6, case.context)
    of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, 0)))
    got = np.asarray(of(found.params, case.x, far))
    assert (got == numpy_pass(found, case.x, far)).all()  # and no bound breaks


class TestChannels:
  """Positions that carry channels: each channel is a position of its own."""

  def model(self, **head):
    def function(p, x, c):
      before = jnp.cumsum(x.sum(-1)) - x.sum(-1)
      return from_outputs(p + 0.1 * before[:, None], 2, 2)

    return par.from_function(
      function,
      event=(2, 2),
      rank=order.raster((2,)),
      head=heads.discretized_logistic(4, 2, 2)._replace(**head),
      init=lambda key: jax.random.normal(key, (2, 12)) - 0.5,
      name='own',
    )

  def test_one_after_another(self):
    model = self.model()
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 32)
    x = np.asarray(par.ancestral(model)(params, keys).x)
    found = par.exact(model, params, x)
    assert found.model.rank.tolist() == [[0, 1], [2, 3]]
    nats = jax.jit(par.log_prob, static_argnums=0)
    want = nats(model, params, x)
    got = nats(found.model, found.params, x)
    assert np.abs(np.asarray(want - got)).max() < 0.02
    drawn = par.cached(found.model)(found.params, keys[:3])
    again = par.ancestral(found.model)(found.params, keys[:3])
    assert path.KINDS[int(drawn.info.path)] == 'whole'
    assert (np.asarray(drawn.x) == np.asarray(again.x)).all()
    data = par.codec(found.model, method='lanes').encode(found.params, x[:5])
    assert (reference.read(found.report.program, data) == x[:5]).all()

  def test_a_head_without_a_chain_is_refused(self):
    model = self.model(chain=None, pmf=lambda dist: jnp.ones((2, 2, 4)))
    params = model.init(jax.random.key(0))
    with pytest.raises(par.NotWhole, match='carries 2 values in a position'):
      par.exact(model, params, np.zeros((2, 2, 2), int))


class TestRefusals:
  """What cannot be made whole is named, with its line."""

  def model(self, function, head=None):
    return par.from_function(
      function,
      event=(3,),
      rank=order.raster(3),
      head=head or heads.bernoulli(),
      name='own',
    )

  def refused(self, function, head=None):
    model = self.model(function, head)
    with pytest.raises(par.NotWhole) as error:
      par.exact(model, {}, np.zeros((4, *model.event.shape), int))
    return str(error.value)

  def test_an_operation_without_a_rule(self):
    text = self.refused(
      lambda p, x, c: jnp.fft.irfft(jnp.fft.rfft(jnp.cumsum(0.3 * x)), 3)
    )
    assert re.match(r'fft \(tests/exact_test.py:\d+\) cannot be made', text)
    assert 'does not fall back to float' in text

  def test_a_loop_that_ends_when_a_value_says_so(self):
    def function(p, x, c):
      start = jnp.float32(0.5)
      end = jax.lax.while_loop(
        lambda v: v < 1.0 + x[0], lambda v: v * 1.5, start
      )
      return jnp.zeros(3) + 0.0 * end

    assert 'number of turns' in self.refused(function)

  def test_continuous_values(self):
    model = models.gaussian_made(event=(3,), hidden=(8,))
    with pytest.raises(par.NotWhole, match='continuous values'):
      par.exact(model, model.init(jax.random.key(0)), np.zeros((2, 3)))

  @pytest.mark.parametrize(
    'wrong', [{'weight_bits': 1}, {'activation_bits': 40}, {'precision': 20}]
  )
  def test_bits(self, wrong):
    case, _ = whole()
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f'{name} is 2 to 16'):
      par.exact(case.model, case.params, case.x, case.context, **wrong)

  def test_no_examples(self):
    case, _ = whole('made')
    with pytest.raises(ValueError, match='taken from examples'):
      par.exact(case.model, case.params, case.x[:0])


class TestFiles:
  def test_a_program_comes_back(self, tmp_path):
    case, found = whole()
    file = tmp_path / 'program.npz'
    reference.save(found.report.program, file)
    again = reference.load(file)
    first = [np.asarray(leaf)[0] for leaf in jax.tree.leaves(case.context)]
    want = reference.run(found.report.program, case.x[0], *first)
    assert (reference.run(again, case.x[0], *first) == want).all()
    record = of_program(again, case.model)
    rows = jax.tree.map(lambda leaf: leaf[:3], case.context)
    codecs = [par.codec(m, method='lanes') for m in (found.model, record.model)]
    data = codecs[0].encode(found.params, case.x[:3], rows)
    back = codecs[1].decode(record.params, data, rows)  # bound to parameters
    assert (back.x == case.x[:3]).all()

  @pytest.mark.parametrize(
    ('change', 'why'),
    [
      ({'output': 10**6}, 'its output is made by no operation'),
      ({'precision': 33}, 'precision is 2 to 16'),
      ({'steps': ()}, 'grids differ in number'),
    ],
  )
  def test_a_program_that_no_lowering_wrote_is_refused(
    self, tmp_path, change, why
  ):
    program = dataclasses.replace(whole('made')[1].report.program, **change)
    file = tmp_path / 'program.npz'
    reference.save(program, file)
    with pytest.raises(ValueError, match=why):
      reference.load(file)

  def test_an_unknown_operation_and_another_file_are_refused(self, tmp_path):
    program = whole('made')[1].report.program
    ops = (*program.ops[:-1], dataclasses.replace(program.ops[-1], name='exec'))
    file = tmp_path / 'program.npz'
    reference.save(dataclasses.replace(program, ops=ops), file)
    with pytest.raises(ValueError, match="it has an operation 'exec'"):
      reference.load(file)
    np.savez(file, program=np.array([{}], object))
    with pytest.raises(ValueError, match='cannot be read'):
      reference.load(file)

  def test_a_bound_that_does_not_hold_is_seen(self):
    case, found = whole('made')
    program = found.report.program
    n = program.ops[-1].output
    wrong = dataclasses.replace(program, bounds=program.bounds | {n: (0, 1)})
    with pytest.raises(OverflowError, match=f'array {n} .* bound is 0 to 1'):
      reference.run(wrong, case.x[0])

  def test_the_codec_says_nothing_of_the_writer(self):
    case, found = whole()
    how = {'method': 'lanes'}
    data = par.codec(found.model, batch=5, **how).encode(
      found.params, case.x, case.context
    )
    assert container.read_header(data).facts is None
    back = par.codec(found.model, batch=3, **how).decode(
      found.params, data, case.context
    )
    assert (back.x == case.x).all()
    with pytest.raises(ValueError, match='precision=16'):
      par.codec(found.model, precision=12)
    with pytest.raises(container.BadFile, match='other parameters'):
      other = jax.tree.map(lambda leaf: leaf * 0, found.params)
      par.codec(found.model, **how).decode(other, data, case.context)

  def test_numpy_reads_a_file_without_jax(self, tmp_path):
    case, found = whole()
    data = par.codec(found.model, batch=5).encode(
      found.params, case.x, case.context
    )
    (tmp_path / 'jax.py').write_text('raise ImportError("no JAX here")')
    (tmp_path / 'file.par').write_bytes(data)
    reference.save(found.report.program, tmp_path / 'program.npz')
    names = ['program.npz', 'file.par', 'events.npy']
    for n, leaf in enumerate(jax.tree.leaves(case.context)):
      np.save(tmp_path / f'context{n}.npy', np.asarray(leaf))
      names.append(f'context{n}.npy')
    search = [str(tmp_path), str(ROOT / 'parallel_ar' / 'exact')]
    subprocess.run(
      [sys.executable, '-m', 'reference', *names],
      cwd=tmp_path,
      env={'PYTHONPATH': ':'.join(search), 'PATH': ''},
      check=True,
    )
    assert (np.load(tmp_path / 'events.npy') == case.x).all()

  @pytest.mark.parametrize('method', ['lanes', 'cached'])
  def test_numpy_reads_tied_positions_of_every_method(self, method):
    case, found = whole()  # three of a rank, and a last batch of two
    pair = par.codec(found.model, batch=7, method=method)
    data = pair.encode(found.params, case.x, case.context)
    leaves = map(np.asarray, jax.tree.leaves(case.context))
    assert (reference.read(found.report.program, data, *leaves) == case.x).all()

  def test_numpy_refuses_what_it_cannot_read(self):
    case, found = whole('made')
    program = found.report.program
    stream = par.codec(found.model, method='stream', verify=False)
    with pytest.raises(ValueError, match="by method 'stream'"):
      reference.read(program, stream.encode(found.params, case.x[:1]))
    data = par.codec(found.model, method='lanes').encode(found.params, case.x)
    with pytest.raises(ValueError, match='damaged'):
      reference.read(program, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match='no file of the codec'):
      reference.read(program, b'none of it')
    fewer = dataclasses.replace(program, precision=15)
    with pytest.raises(ValueError, match='another program'):
      reference.read(fewer, data)
    float_file = par.codec(case.model, method='lanes').encode(
      case.params, case.x
    )
    with pytest.raises(ValueError, match='for their own machine'):
      reference.read(program, float_file)
