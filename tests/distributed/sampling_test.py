"""Every mesh draws the integers of one device."""

import jax
import numpy as np
import pytest

from parallel_ar import models, samplers
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.testing import case as cases

MODELS = {
  'transformer': lambda: models.transformer(
    event=(16,), num_values=4, features=32, layers=1, heads=4
  ),
  'recurrent': lambda: models.recurrent(
    event=(16,), num_values=4, cell='min_lstm', features=32
  ),
  'gated_pixelcnn': lambda: models.gated_pixelcnn(
    event=(4, 4, 1), features=16, layers=1, head_features=32
  ),
}
SAMPLERS = {
  'ancestral': samplers.ancestral,
  'fixed_point': samplers.fixed_point,
  'cached': samplers.cached,
}


@pytest.mark.parametrize(
  ('family', 'sizes'),
  [
    ('transformer', {'data': 4, 'tensor': 2}),
    ('transformer', {'data': 2, 'fsdp': 2, 'sequence': 2}),
    ('recurrent', {'data': 2, 'tensor': 2, 'sequence': 2}),
    ('gated_pixelcnn', {'data': 2, 'fsdp': 4}),
  ],
)
def test_same_integers(family, sizes):
  model = MODELS[family]()
  params = cases.random_params(model, gain=1.5)
  keys = jax.random.split(jax.random.key(0), 8)
  want = np.asarray(samplers.ancestral(model)(params, keys).x)
  assert 0.02 < want.mean() / (model.head.num_values - 1) < 0.98
  with jax.set_mesh(mesh_lib.make(sizes)):
    mesh = jax.sharding.get_mesh()
    places = sharding.param_shardings(params, family, mesh)
    spread = jax.device_put(params, places)
    placed = mesh_lib.place(keys)
    for name, make in SAMPLERS.items():
      got = make(model)(spread, placed)
      np.testing.assert_array_equal(np.asarray(got.x), want, err_msg=name)
