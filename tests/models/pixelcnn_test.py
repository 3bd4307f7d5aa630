"""PixelCNN and Gated PixelCNN: what they read, to the pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import models
from parallel_ar.analysis import causality
from parallel_ar.testing import case as cases
from parallel_ar.testing import likelihood_laws
from tests import toys

EVENT = (4, 5, 1)


def audit(model):
  case = cases.make_case(model)
  return causality.audit(model, case.params, case.keys[0], num_events=5)


def test_the_blind_spot_of_pixelcnn_is_the_wedge():
  """Deep enough to see all, it misses exactly what is right of b = a."""
  model = models.pixelcnn(
    event=EVENT, features=16, layers=4, head_features=16, first_size=3
  )
  found = audit(model)
  assert not found.leaks
  np.testing.assert_array_equal(found.matrix, toys.pixelcnn_reads(EVENT))
  blind = causality.predecessors(model.rank) & ~found.matrix
  assert [int(j) for j in np.flatnonzero(blind[5])] == [2, 3, 4]


def test_gated_pixelcnn_has_no_blind_spot():
  model = models.gated_pixelcnn(
    event=EVENT, features=8, layers=4, head_features=8, first_size=3
  )
  found = audit(model)
  np.testing.assert_array_equal(
    found.matrix, causality.predecessors(model.rank)
  )


BUILDERS = {'pixelcnn': models.pixelcnn, 'gated': models.gated_pixelcnn}
SMALL = {'features': 8, 'layers': 2, 'head_features': 8}


@pytest.fixture(params=BUILDERS)
def build(request):
  return lambda **fields: BUILDERS[request.param](**{**SMALL, **fields})


def test_channels_are_chained_or_tied(build):
  chain = build(event=(2, 2, 2))
  tied = build(event=(2, 2, 2), channel_order='tied')
  assert (chain.depth, tied.depth) == (8, 4)
  np.testing.assert_array_equal(tied.rank[0, 1], [1, 1])


def test_heads_follow_the_alphabet(build):
  assert build(event=(2, 2, 1)).head.name == 'bernoulli'
  assert build(event=(2, 2, 1), num_values=5).head.name == 'categorical(5)'


def test_the_label_changes_the_distribution(build):
  model = build(event=(2, 2, 1), num_classes=3, first_size=3)
  params = cases.random_params(model)
  x = np.zeros((2, 2, 2, 1), np.int32)
  nats = likelihood_laws.log_prob(model, params, x, jnp.array([0, 2]))
  assert nats[0] != nats[1]


def test_bfloat16_keeps_float32_parameters_and_logits(build):
  model = build(event=(3, 3, 1), dtype=jnp.bfloat16)
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  x = jax.ShapeDtypeStruct((3, 3, 1), jnp.int32)
  assert jax.eval_shape(model.conditionals, params, x, None).dtype == 'float32'
  fn = lambda params, x: model.conditionals(params, x, None)
  program = str(jax.make_jaxpr(fn)(params, x))
  lines = [line for line in program.splitlines() if 'conv_general' in line]
  assert lines and all('bf16' in line for line in lines)


def test_init_gives_finite_parameters(build):
  model = build(event=(2, 2, 1), first_size=3, layers=1)
  params = jax.jit(model.init)(jax.random.key(0))
  assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'event': (4, 4)}, r'\(height, width, channels\); got \(4, 4\).*one chan'),
    ({'channel_order': 'rgb'}, "'chain' .* or 'tied' .*; got 'rgb'"),
    ({'event': (4, 4, 3)}, '8 features cannot be shared evenly by 3 channel'),
    ({'size': 4}, 'odd kernel size; got 4'),
    ({'first_size': 1}, 'reads nothing; use a size of at least 3'),
    ({'remat': 'some'}, "Unknown remat policy 'some'"),
    ({'inputs': 'raw'}, "'scaled' or 'one_hot'; got 'raw'"),
  ],
)
def test_errors(build, fields, message):
  with pytest.raises(ValueError, match=message):
    build(**{'event': (4, 4, 1), **fields})


def test_a_gated_pixelcnn_has_layers():
  with pytest.raises(ValueError, match='at least one layer; got 0'):
    models.gated_pixelcnn(event=EVENT, layers=0)
