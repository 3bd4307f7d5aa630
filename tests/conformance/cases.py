"""One tiny model for each kind of order and context that a family takes.

A new model joins by one line of CASES. Laws of other tests read them too.
"""

import functools

import jax.numpy as jnp
import numpy as np

from parallel_ar import models, order, transform
from parallel_ar.analysis import causality
from parallel_ar.testing import conformance
from tests import toys

made = functools.partial(models.made, degrees='even', hidden=(32, 32))
pixelcnn = functools.partial(
  models.pixelcnn, features=24, layers=2, head_features=24, first_size=3
)
gated = functools.partial(
  models.gated_pixelcnn, features=12, layers=2, head_features=24, first_size=3
)
transformer = functools.partial(
  models.transformer, num_values=3, features=8, heads=2, layers=2
)
pixelcnn_pp = functools.partial(
  models.pixelcnn_pp,
  num_values=2,
  num_mixtures=3,
  features=10,
  layers=1,
  resolutions=2,
)
pixelsnail = functools.partial(
  models.pixelsnail,
  features=6,
  blocks=1,
  residuals=1,
  key_features=4,
  value_features=5,
)
multiscale = functools.partial(
  models.multiscale, features=12, layers=2, head_features=12
)
ardm = functools.partial(models.ardm, features=8, heads=2, layers=2, chunk=4)
transformer_xl = functools.partial(
  models.transformer_xl, num_values=3, features=8, heads=2, layers=2
)
two_stream = functools.partial(
  models.two_stream, num_values=3, features=8, heads=2, layers=2
)
next_scale = functools.partial(models.next_scale, features=8, heads=2, layers=2)
narrow = {'features': 6, 'skip_features': 8}
recurrent = functools.partial(
  models.recurrent, event=(6,), num_values=3, features=8
)
transposed = np.arange(9).reshape(3, 3).T.reshape(-1)

# One layer where another case of the family has two: what such a case is for,
# its order, its context or its channels, shows in one.
CASES = {
  'made': lambda: made(event=(3, 3, 1), direct=True),
  'made_random_order_label': lambda: made(
    event=(9,),
    rank=order.random((9,), 1),
    num_classes=3,
    activation='softplus',
  ),
  'made_blocks_vector': lambda: made(
    event=(2, 2, 3), rank=order.blocks((2, 2, 3), 3), context_size=2
  ),
  'made_of_an_ensemble': lambda: models.ensemble(
    event=(2, 3),
    num_values=3,
    num_masks=2,
    random_orders=True,
    hidden=(30,),
    direct=True,
  )[1],
  'pixelcnn': lambda: pixelcnn(event=(3, 3, 1)),
  'pixelcnn_chain_label': lambda: pixelcnn(
    event=(2, 2, 3), layers=1, num_classes=2
  ),
  'pixelcnn_tied': lambda: pixelcnn(
    event=(2, 3, 2), layers=1, channel_order='tied'
  ),
  'gated_label': lambda: gated(event=(4, 3, 1), size=5, num_classes=2),
  'gated_chain_label': lambda: gated(
    event=(2, 2, 3), features=12, head_features=12, num_classes=2
  ),
  'gated_tied_categorical': lambda: gated(
    event=(1, 3, 2),
    num_values=3,
    layers=1,
    first_size=5,
    channel_order='tied',
    inputs='one_hot',
  ),
  'gated_transposed_vector': lambda: transform.permute(
    gated(event=(3, 3, 1), layers=1, first_size=5, context_size=2), transposed
  ),
  'gated_bfloat16': lambda: gated(
    event=(3, 3, 1), layers=1, first_size=5, dtype=jnp.bfloat16
  ),
  'transformer': lambda: transformer(event=(6,)),
  'transformer_random_order_label': lambda: transformer(
    event=(2, 3), rank=order.random((2, 3), 3), num_classes=2
  ),
  'transformer_blocks_vector': lambda: transformer(
    event=(6,),
    rank=order.blocks(6, 2),
    layers=1,
    context_size=2,
    positions='learned',
    tied=True,
  ),
  'transformer_sparse': lambda: transformer(
    event=(6,), pattern=('local', 'strided'), window=3, chunk=2
  ),
  'pixelcnn_pp_label': lambda: pixelcnn_pp(event=(3, 3, 1), num_classes=2),
  'pixelcnn_pp_rgb_vector': lambda: pixelcnn_pp(
    event=(1, 2, 3), num_values=3, resolutions=1, context_size=2
  ),
  'pixelsnail_label': lambda: pixelsnail(
    event=(3, 4, 1), blocks=2, num_classes=2
  ),
  'pixelsnail_rgb_vector': lambda: pixelsnail(
    event=(1, 2, 3), num_values=3, num_mixtures=2, context_size=2
  ),
  'pixelsnail_categorical': lambda: pixelsnail(event=(3, 2, 1), num_values=3),
  'multiscale_label': lambda: multiscale(
    event=(3, 3, 1), layers=1, num_classes=2
  ),
  'multiscale_two_groups_vector': lambda: multiscale(
    event=(2, 3, 1),
    num_values=3,
    rank=order.multiscale((2, 3, 1), 2),
    context_size=2,
  ),
  'multiscale_channels_image': lambda: multiscale(
    event=(2, 2, 3),
    rank=order.channels((2, 2, 3)),
    layers=1,
    context_channels=2,
  ),
  'gated_chain_image': lambda: gated(
    event=(2, 2, 3),
    layers=1,
    features=12,
    head_features=12,
    context_channels=1,
  ),
  'next_scale_label': lambda: next_scale(
    event=(3, 3, 1), layers=1, num_classes=2
  ),
  'next_scale_strides_vector': lambda: next_scale(
    event=(2, 3, 1), num_values=3, strides=(2, 1), context_size=2
  ),
  'next_scale_two_channels': lambda: next_scale(
    event=(2, 3, 2), layers=1, chunk=2
  ),
  'made_multiscale': lambda: made(
    event=(3, 3, 1), rank=order.multiscale((3, 3, 1), 2), direct=True
  ),
  'nade': lambda: models.nade(event=(3, 3, 1), hidden=9),
  'nade_categorical_label': lambda: models.nade(
    event=(6,),
    num_values=3,
    rank=order.random((6,), 6),
    hidden=7,
    num_classes=2,
  ),
  'eonade_vector': lambda: models.eonade(
    event=(2, 3), num_values=3, num_orders=2, hidden=5, context_size=2
  )[1],
  'ardm_random_order_label': lambda: ardm(
    event=(6,),
    num_values=3,
    rank=order.random((6,), 7),
    layers=1,
    num_classes=2,
  ),
  'ardm_blocks_vector': lambda: ardm(
    event=(3, 2),
    rank=order.tie(order.random((3, 2), 8), [1, 3, 2]),
    context_size=2,
  ),
  'deep_nade_label': lambda: ardm(
    event=(3, 2, 1), network='mlp', features=24, layers=1, num_classes=2
  ),
  'transformer_xl_label': lambda: transformer_xl(
    event=(6,), segment=2, memory=3, num_classes=2
  ),
  'transformer_xl_random_order_vector': lambda: transformer_xl(
    event=(2, 3),
    rank=order.random((2, 3), 11),
    segment=3,
    memory=1,
    context_size=2,
  ),
  'two_stream_random_order_label': lambda: two_stream(
    event=(2, 3), rank=order.random((2, 3), 9), layers=1, num_classes=2
  ),
  'two_stream_tied_vector': lambda: two_stream(
    event=(6,),
    num_values=2,
    rank=order.tie(order.random((6,), 10), [1, 3, 2]),
    context_size=2,
  ),
  'wavenet_label': lambda: models.wavenet(
    event=(6,), num_values=3, layers=2, stacks=2, num_classes=2, **narrow
  ),
  'wavenet_random_order_vector': lambda: models.wavenet(
    event=(2, 3),
    num_values=3,
    rank=order.random((2, 3), 4),
    layers=2,
    size=3,
    context_size=2,
    **narrow,
  ),
  'min_gru_label': lambda: recurrent(
    evaluation='associative', rank=order.random((6,), 5), num_classes=2
  ),
  'min_lstm_vector': lambda: recurrent(
    cell='min_lstm', evaluation='chunked', chunk=4, context_size=2
  ),
  'rg_lru': lambda: recurrent(cell='rg_lru', state_features=5),
  'gru': lambda: recurrent(cell='gru'),
  'gru_deer': lambda: recurrent(cell='gru', evaluation='deer', tolerance=0.0),
  'gru_quasi_deer': lambda: recurrent(
    cell='gru', evaluation='quasi_deer', damping=0.2, tolerance=0.0
  ),
}


@functools.cache
def make_model(name: str):
  return CASES[name]()


@functools.cache
def make_case(name: str) -> conformance.Case:
  model = make_model(name)
  reads = causality.predecessors(model.rank)
  if model.name == 'pixelcnn':  # all but its blind spot
    reads &= toys.pixelcnn_reads(model.event.shape)
  tolerance = 2e-2 if name.endswith('bfloat16') else 2e-5
  return conformance.make_case(
    model, name=name, reads=reads, tolerance=tolerance
  )


# Laws that compile most, in the default run for one model of each family.
SPREAD = (
  'made_blocks_vector',
  'pixelcnn',
  'gated_chain_label',
  'transformer',
  'wavenet_label',
  'gru',
)

# What takes longest, in the default run for one case of each family.
ONE_EACH = (
  *SPREAD,
  'pixelcnn_pp_rgb_vector',
  'pixelsnail_categorical',
  'multiscale_two_groups_vector',
  'next_scale_strides_vector',
  'nade',
  'ardm_blocks_vector',
  'deep_nade_label',
  'transformer_xl_label',
  'two_stream_tied_vector',
)
