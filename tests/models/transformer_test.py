"""The Transformer decoder, over slots of any order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from parallel_ar import likelihood, models, order, partition
from parallel_ar.analysis import static
from parallel_ar.decode import derive
from parallel_ar.distributed import sharding
from parallel_ar.testing import case as cases
from parallel_ar.testing import decode_laws


def build(**fields):
  small = {
    'event': (6,),
    'num_values': 3,
    'features': 8,
    'heads': 2,
    'layers': 1,
  }
  return models.transformer(**{**small, **fields})


def test_it_is_the_same_network_in_another_order():
  """Renaming the positions of x renames the terms, bit for bit."""
  rank = order.random(6, 3)
  raster, shuffled = build(), build(rank=rank)
  case = cases.make_case(raster)
  terms = jax.jit(likelihood.log_prob_terms, static_argnums=0)
  slots = order.slots(rank)
  np.testing.assert_array_equal(
    terms(shuffled, case.params, case.x)[:, slots],
    terms(raster, case.params, case.x[:, slots]),
  )


def test_chunks_change_speed_only():
  case = cases.make_case(build())
  log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
  np.testing.assert_allclose(
    log_prob(build(chunk=2), case.params, case.x),
    log_prob(case.model, case.params, case.x),
    rtol=1e-5,
  )


def test_one_group_reads_nothing():
  model = build(rank=np.zeros(6, np.int32))
  case = cases.make_case(model)
  dist = jax.jit(jax.vmap(lambda x: model.conditionals(case.params, x, None)))
  logits = dist(case.x)
  np.testing.assert_array_equal(logits[0], logits[1])


def test_options_change_the_parameters():
  names = lambda model: set(jax.eval_shape(model.init, jax.random.key(0)))
  assert 'positions' in names(build(positions='learned'))
  assert 'positions' not in names(build())
  assert 'logits' in names(build()) and 'logits' not in names(build(tied=True))


def test_mlp_is_four_times_wider_unless_told():
  for fields, width in (({}, 32), ({'mlp_features': 5}, 5)):
    params = jax.eval_shape(build(**fields).init, jax.random.key(0))
    assert params['block_0']['up']['kernel'].shape == (8, width)


def test_bfloat16_keeps_float32_parameters_and_logits():
  model = build(dtype=jnp.bfloat16)
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  x = jax.ShapeDtypeStruct((6,), jnp.int32)
  assert jax.eval_shape(model.conditionals, params, x, None).dtype == 'float32'


def test_init_gives_finite_parameters():
  params = jax.jit(build().init)(jax.random.key(0))
  assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'rank': order.blocks(6, 4)},
      r'must have one size; got sizes \[4 2\]',
    ),
    ({'positions': 'none'}, "'rotary' or 'learned'; got 'none'"),
    ({'heads': 3}, '3 heads do not fit a width of 8'),
    ({'heads': 8}, 'twice the heads with rotary'),
    ({'remat': 'some'}, "Unknown remat policy 'some'"),
  ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    build(**fields)


@pytest.mark.parametrize('pattern', [('full',), ('local', 'strided')])
def test_checkpoints_change_memory_only(pattern):
  """The blocks run in a loop, three of them in turns of one and of two."""
  fields = {'num_values': 5, 'features': 8, 'heads': 2, 'layers': 3}
  net, saving = (
    models.transformer(
      event=(64,), pattern=pattern, window=8, remat=remat, chunk=16, **fields
    )
    for remat in ('none', 'full')
  )
  case = cases.make_case(net)
  assert jax.tree.structure(
    jax.eval_shape(saving.init, case.keys[0])
  ) == jax.tree.structure(case.params)

  def program(model):
    loss = lambda p: likelihood.log_prob(model, p, case.x).sum()
    return jax.jit(jax.value_and_grad(loss)).lower(case.params).compile()

  (want, grads), (got, again) = (program(m)(case.params) for m in (net, saving))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(
      g, w, rtol=1e-3, atol=1e-3 * np.abs(w).max() + 1e-5
    ),
    again,
    grads,
  )


class TestLayersInAScan:
  """Parameters in stacks, and one period in the program."""

  kind = {'layers': 4, 'pattern': ('local', 'full'), 'window': 2}

  def _unstacked(self, params):
    rest = dict(params)
    stacks = rest.pop(partition.STACKS)
    for l in range(4):
      one = lambda a, turn=l // 2: a[turn]
      rest[f'block_{l}'] = jax.tree.map(one, stacks[f'block_{l % 2}'])
    return rest

  @pytest.mark.parametrize('remat', ['none', 'full'])
  def test_it_is_the_network_of_its_layers(self, remat):
    flat = build(**self.kind)
    model = build(**self.kind, scan_layers=True, remat=remat)
    case = cases.make_case(model)
    loss = lambda m: lambda p: likelihood.log_prob(m, p, case.x).sum()
    both = jax.jit(
      lambda params: (
        jax.value_and_grad(loss(model))(params),
        jax.value_and_grad(loss(flat))(self._unstacked(params)),
      )
    )
    (value, slope), (want, wanted) = both(case.params)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      self._unstacked(slope),
      wanted,
    )

  def test_the_program_does_not_grow_with_layers(self):
    size = lambda m: len(
      str(
        jax.make_jaxpr(m.conditionals)(
          jax.eval_shape(m.init, jax.random.key(0)), m.event, None
        )
      )
    )
    few, many = (build(layers=n, scan_layers=True) for n in (2, 9))
    assert abs(size(many) - size(few)) < 200  # the digits of shapes

  def test_its_laws(self):
    """Proved causal; its own path and the derived one agree with the pass."""
    scanned = build(**self.kind, scan_layers=True)
    case = cases.make_case(scanned)
    assert static.check(scanned).proved
    decode_laws.decode_agreement(case)
    decode_laws.derived(case)
    assert not derive.derived(scanned).schedule.full

  def test_stacks_are_cut_as_their_layers(self):
    mesh = AbstractMesh((1, 2, 2, 1), partition.AXES)
    shapes = jax.eval_shape(
      build(features=64, layers=4, scan_layers=True).init, jax.random.key(0)
    )
    specs = sharding.param_specs(shapes, 'transformer', mesh)
    block = specs[partition.STACKS]['block_0']
    assert block['att']['qkv']['kernel'] == P(None, 'fsdp', 'tensor')
    assert block['down']['kernel'] == P(None, 'tensor', 'fsdp')
    assert block['up']['bias'] == P(None, 'tensor')
    assert block['norm_att']['scale'] == P()

  def test_layers_that_are_no_whole_periods_are_refused(self):
    with pytest.raises(ValueError, match='a multiple of 2; got 3'):
      build(layers=3, pattern=('local', 'full'), scan_layers=True)
