"""Every model against every law; a new model joins by one line of CASES."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import models, order, transform
from parallel_ar.analysis import causality
from parallel_ar.testing import conformance

made = functools.partial(models.made, degrees='even', hidden=(24, 24))
pixelcnn = functools.partial(
  models.pixelcnn, features=12, layers=2, head_features=12, first_size=3
)
gated = functools.partial(
  models.gated_pixelcnn, features=6, layers=3, head_features=6, first_size=3
)
transformer = functools.partial(
  models.transformer, num_values=3, features=8, heads=2, layers=2
)
transposed = np.arange(9).reshape(3, 3).T.reshape(-1)

CASES = {
  'made': lambda: made(event=(3, 3, 1), direct=True),
  'made_random_order_label': lambda: made(
    event=(9,), rank=order.random((9,), 1), num_classes=3
  ),
  'made_blocks_vector': lambda: made(
    event=(2, 2, 3), rank=order.blocks((2, 2, 3), 3), context_size=2
  ),
  'made_reverse_categorical': lambda: made(
    event=(6,), num_values=3, rank=order.reverse(order.raster(6)), direct=True
  ),
  'made_of_an_ensemble': lambda: models.ensemble(
    event=(3, 3), num_masks=2, random_orders=True, hidden=(30,), direct=True
  )[1],
  'pixelcnn': lambda: pixelcnn(event=(3, 3, 1)),
  'pixelcnn_chain_label': lambda: pixelcnn(event=(2, 2, 3), num_classes=2),
  'pixelcnn_tied': lambda: pixelcnn(event=(2, 3, 2), channel_order='tied'),
  'gated_chain_label': lambda: gated(event=(2, 2, 3), num_classes=2),
  'gated_tied_categorical': lambda: gated(
    event=(1, 3, 2), num_values=3, channel_order='tied', inputs='one_hot'
  ),
  'gated_transposed_vector': lambda: transform.permute(
    gated(event=(3, 3, 1), context_size=2), transposed
  ),
  'gated_bfloat16': lambda: gated(event=(3, 3, 1), dtype=jnp.bfloat16),
  'transformer': lambda: transformer(event=(6,)),
  'transformer_random_order_label': lambda: transformer(
    event=(2, 3), rank=order.random((2, 3), 3), num_classes=2
  ),
  'transformer_blocks_vector': lambda: transformer(
    event=(6,),
    rank=order.blocks(6, 2),
    context_size=2,
    positions='learned',
    tied=True,
  ),
  'transformer_at_temperature': lambda: transform.with_temperature(
    transformer(event=(6,)), 0.5
  ),
}
# What each output must read: all its predecessors, but for these.
BLIND = ('pixelcnn', 'pixelcnn_chain_label', 'pixelcnn_tied')


@functools.cache
def make_case(name: str) -> conformance.Case:
  model = CASES[name]()
  reads = None if name in BLIND else causality.predecessors(model.rank)
  tolerance = 2e-2 if name.endswith('bfloat16') else 2e-5
  return conformance.make_case(
    model, name=name, reads=reads, tolerance=tolerance
  )


@pytest.mark.parametrize('law', conformance.LAWS)
@pytest.mark.parametrize('name', CASES)
def test_law(name, law):
  print(f'{name}: {law}: {conformance.LAWS[law](make_case(name))}')
