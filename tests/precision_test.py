"""What a product of float32 is on an accelerator: chosen, in force, told.

There is none here, so the platform is pretended and the trace is read.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import coding, export, likelihood, precision, target
from parallel_ar.coding import environment, lanes, stream
from parallel_ar.coding.account import _bits as account_bits
from parallel_ar.program import equations
from parallel_ar.training import configuration, evaluate, results, step
from tests.conformance import cases


@pytest.fixture
def on_a_tpu(monkeypatch):
  """Programs are for a TPU, as far as `precision` asks."""
  monkeypatch.setattr(target.jax, 'default_backend', lambda: 'tpu')


@pytest.fixture(scope='module')
def model():
  return par.models.made(event=(5,), num_values=3, hidden=(8,))


@pytest.fixture(scope='module')
def params(model):
  return model.init(jax.random.key(0))


def _levels(function, *args):
  """The precision of every product of a trace, at whatever depth."""
  names = {
    None if eqn.params['precision'] is None else eqn.params['precision'][0].name
    for eqn in _equations(jax.make_jaxpr(function)(*args).jaxpr)
    if eqn.primitive.name in _PRODUCTS
  }
  assert names, 'a network without a product'
  return names


def _equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in jax.tree.leaves(list(eqn.params.values())):
      inner = equations.opened(value)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner)


_PRODUCTS = 'dot_general', 'conv_general_dilated', 'ragged_dot_general'
X = np.array([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]], np.int32)


def test_evaluation_is_at_the_highest_level(on_a_tpu, model, params):
  log_prob = evaluate.make_log_prob([model])
  assert _levels(log_prob, params, X, None) == {'HIGHEST'}
  fast = evaluate.make_log_prob([model], 'default')
  assert _levels(fast, params, X, None) == {None}


@pytest.mark.parametrize('name', [*cases.ONE_EACH, 'splash'])
def test_no_product_of_a_family_escapes(on_a_tpu, name):
  if name == 'splash':  # the kernel of a TPU
    model = par.models.transformer(
      event=(256,),
      num_values=5,
      features=64,
      heads=2,
      layers=1,
      attention_kernel='auto',
    )
  else:
    model = cases.make_model(name)
  batch = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype),
    {'x': model.event, 'context': model.context},
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
  update = jax.grad(step.make_loss([model]))
  draw = lambda p, keys, context: par.cached(model)(p, keys, context).x
  with precision.scope('highest'):
    assert _levels(update, params, batch, 0) == {'HIGHEST'}
    assert _levels(draw, params, keys, batch['context']) == {'HIGHEST'}


def test_coding_is_too_whatever_is_in_force(
  on_a_tpu, monkeypatch, model, params
):
  monkeypatch.setattr(environment, 'options', lambda: None)  # to be traced
  how, x, given = coding.PRECISION, jnp.asarray(X), jnp.array(True)
  lane, table = lanes._program.__wrapped__(), stream._program.__wrapped__()
  solve = lambda p: lane(model, how, p, x, None, x, given)
  tables = lambda p: table(model, how, p, x, None, given)
  for program in (solve, tables):
    with jax.default_matmul_precision('bfloat16'):
      assert _levels(program, params) == {'HIGHEST'}


def test_so_are_the_bits_that_a_file_is_compared_with(
  on_a_tpu, monkeypatch, model, params
):
  levels = []

  def log_prob(model, params, x, context):
    levels.append(jax.config.jax_default_matmul_precision)
    return jnp.zeros(len(x))

  monkeypatch.setattr(likelihood, 'log_prob', log_prob)
  account_bits(model, params, X, None, 2)
  assert levels == ['highest']


def test_a_derived_path_is_at_the_level_of_its_pass(on_a_tpu, model, params):
  path = par.derive_decode(model)
  first = lambda p: path.extend(p, path.init(p, None), 0, jnp.zeros(1, int))
  assert _levels(first, params) == {None}  # derived before, run inside
  with precision.scope('highest'):
    assert _levels(first, params) == {'HIGHEST'}
  with jax.default_matmul_precision('BF16_BF16_F32'):
    jax.eval_shape(first, params)


def test_an_exported_program_asks_for_float32_wherever_it_runs(model, params):
  saved = export._lower(
    lambda leaves, x: par.log_prob(
      model, jax.tree.unflatten(jax.tree.structure(params), leaves), x
    ),
    jax.tree.leaves(params),
    lambda b: [jax.ShapeDtypeStruct((b, 5), np.int32)],
  )
  text = jax.export.deserialize(saved).mlir_module()
  products = [
    line for line in text.splitlines() if 'stablehlo.dot_general' in line
  ]
  assert products
  assert all('HIGHEST' in line for line in products)


def test_the_loop_and_its_validation_have_their_own(
  on_a_tpu, monkeypatch, tmp_path
):
  from parallel_ar.training import loop

  seen = {}
  make_loss, make_log_prob = step.make_loss, evaluate.make_log_prob

  def watched(kind, function):
    def run(*args):
      level = jax.config.jax_default_matmul_precision
      seen.setdefault(kind, level)
      return function(*args)

    return run

  monkeypatch.setattr(
    step, 'make_loss', lambda *a: watched('train', make_loss(*a))
  )

  def log_prob(models, level):
    seen['valid'] = level
    return make_log_prob(models, level)

  monkeypatch.setattr(evaluate, 'make_log_prob', log_prob)
  config = configuration.default_config()
  config.data.update(name='digits')
  config.model.update(name='made', event=(8, 8, 1), num_values=17, hidden=(4,))
  config.train.update(
    steps=1, batch_size=8, precision='high', tensorboard=False
  )
  summary = loop.train(config, tmp_path / 'run', progress=False)
  assert summary.stopped == 'steps'
  assert seen == {'train': 'high', 'valid': 'highest'}


def test_nothing_is_set_for_a_cpu(model, params):
  log_prob = evaluate.make_log_prob([model])
  assert _levels(log_prob, params, X, None) == {None}
  assert precision.products('highest') == precision.products('high')
  assert results.hardware()['float32_products'] == 'float32'


def test_a_setting_of_jax_is_overridden_on_a_cpu_too():
  a = jnp.full((1, 1), 1.00390625)  # 1 + 2^-8 is no bfloat16
  with jax.default_matmul_precision('BF16_BF16_F32'):
    with precision.scope('highest'):  # else 1, or an error of older JAX
      assert (a @ a)[0, 0] == a[0, 0] ** 2


def test_a_setting_of_jax_stays_where_none_is_asked_for(on_a_tpu):
  with jax.default_matmul_precision('bfloat16'), precision.scope('default'):
    assert jax.config.jax_default_matmul_precision == 'bfloat16'
    assert 'bfloat16' in precision.products('default')
  assert precision.products('default').startswith('bfloat16 operands')


def test_levels_are_named():
  config = configuration.default_config()
  config.model.name = 'made'
  assert config.evaluate.precision == 'highest'
  config.train.precision = 'float32'
  with pytest.raises(ValueError, match=r'train\.precision.*default, high'):
    configuration.validate(config)
  with pytest.raises(ValueError, match='one of default, high, highest'):
    precision.scope('exact')
