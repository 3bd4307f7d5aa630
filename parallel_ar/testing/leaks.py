"""Models that are wrong on purpose. Each must be caught, and named rightly.

Every one is an easy mistake, made as small as it can be. A suite that lets one
of them pass proves nothing about the models that it passes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import heads, model, order
from parallel_ar.adapters import linen
from parallel_ar.layers import conv, dense
from parallel_ar.testing import leaky_sequences as sequences
from parallel_ar.testing.leaky_sequences import LENGTH, WIDTH, sequence
from parallel_ar.types import Array, Context


class Leak(NamedTuple):
  """A mistake and what the audit must say of it.

  Attributes:
    name: of the model.
    mistake: what was done, and what should have been.
    build: makes the model.
    pair: (i, j), an output and a forbidden input that it certainly reads.
    laws: other laws that must reject it as well.
    certain: whether it leaks for all parameters and events in general, so that
      the static audit must prove the leak. Where only some event leaks, it must
      say that it cannot decide.
  """

  name: str
  mistake: str
  build: Callable[[], model.AutoregressiveModel]
  pair: tuple[int, int]
  laws: tuple[str, ...] = ('normalisation', 'one_pass')
  certain: bool = True


class _Stack(nn.Module):
  """Layers in turn with tanh between, on an image of -1 and 1."""

  layers: Sequence[Any]

  @nn.compact
  def __call__(self, x: Array, context: Context) -> Array:
    del context
    y = 2.0 * x - 1.0
    for layer in self.layers[:-1]:
      y = jnp.tanh(layer(y))
    return self.layers[-1](y).reshape(x.shape)


def _image(
  name: str, event: tuple[int, ...], *layers: nn.Module
) -> model.AutoregressiveModel:
  return linen.from_linen(
    _Stack(layers),
    event=event,
    rank=order.raster(event),
    head=heads.bernoulli(),
    name=name,
  )


def _of(name: str, **fields: Any) -> Callable[[], model.AutoregressiveModel]:
  """Builds a sequence model of the body of that name, in raster order."""
  return lambda: sequence(name, getattr(sequences, name), **fields)


def _made_same_degree() -> model.AutoregressiveModel:
  rank, hidden = np.arange(LENGTH), np.arange(12) % (LENGTH - 1)
  return _image(
    'made_same_degree',
    (LENGTH,),
    dense.MaskedDense(rank, hidden),
    dense.MaskedDense(hidden, rank),
  )


def _first_layer_type_b() -> model.AutoregressiveModel:
  first, last = conv.MaskedConv(WIDTH, 3, 'B'), nn.Dense(1)
  return _image('first_layer_type_b', (2, 3, 1), first, last)


def _rows_with_own() -> model.AutoregressiveModel:
  first, last = conv.RowsAbove(WIDTH, 3, 'B'), nn.Dense(1)
  return _image('rows_with_own', (2, 3, 1), first, last)


def _channels_mixed() -> model.AutoregressiveModel:
  first = conv.MaskedConv(9, 3, 'A', channels=3)
  second = conv.MaskedConv(9, 3, 'B', channels=1)
  groups = dense.channel_degrees(9, 3), np.arange(3)
  last = dense.MaskedDense(*groups)
  return _image('channels_mixed', (1, 2, 3), first, second, last)


def _groups_confused() -> model.AutoregressiveModel:
  first = conv.MaskedConv(9, 3, 'A', channels=3)
  interleaved = dense.MaskedDense(np.arange(9) % 3, np.arange(9) % 3)
  last = dense.MaskedDense(dense.channel_degrees(9, 3), np.arange(3))
  return _image('groups_confused', (1, 2, 3), first, interleaved, last)


def _head_over_positions() -> model.AutoregressiveModel:
  right = heads.bernoulli()
  center = lambda logits: logits - logits.mean()
  wrong = right._replace(
    name='bernoulli of centred logits',
    log_prob=lambda logits, x: right.log_prob(center(logits), x),
    pick=lambda logits, noise: right.pick(center(logits), noise),
  )
  causal = sequence('head_over_positions', sequences.causal_by_slot)
  return model.from_function(
    causal.conditionals,
    event=causal.event,
    rank=causal.rank,
    head=wrong,
    init=causal.init,
    name='head_over_positions',
  )


GALLERY = (
  Leak(
    'made_same_degree',
    'Outputs read hidden units of degree <= their rank; it must be <.',
    _made_same_degree,
    (0, 0),
  ),
  Leak(
    'first_layer_type_b',
    'The first convolution keeps its own pixel; it must be of type A.',
    _first_layer_type_b,
    (0, 0),
  ),
  Leak(
    'rows_with_own',
    "The vertical stack starts with its own row, and so with the row's end.",
    _rows_with_own,
    (0, 1),
  ),
  Leak(
    'channels_mixed',
    'A convolution after the first forgets the channel groups at its centre.',
    _channels_mixed,
    (0, 1),
  ),
  Leak(
    'groups_confused',
    'Channel groups are contiguous in one layer and interleaved in the next.',
    _groups_confused,
    (0, 0),
  ),
  Leak(
    'shift_forgotten',
    'Attention is causal, but slot k is fed its own symbol, unshifted.',
    _of('shift_forgotten'),
    (0, 0),
  ),
  Leak(
    'attention_unmasked',
    'Inputs are shifted, but every slot attends to all.',
    _of('attention_unmasked'),
    (0, 1),
  ),
  Leak(
    'attention_masked_softly',
    'Scores of the future get -10 instead of minus infinity: a leak of 1e-5.',
    _of('attention_masked_softly'),
    (0, 1),
    (),  # too small for a tolerance; this is why bits are compared
  ),
  Leak(
    'softmax_over_the_sequence',
    'Weights of a causal sum share one normaliser over the whole sequence.',
    lambda: sequence(
      'softmax_over_the_sequence', sequences.softmax_over_the_sequence
    ),
    (1, 2),
  ),
  Leak(
    'norm_over_time',
    'Activations are normalised over positions instead of features.',
    _of('norm_over_time'),
    (0, 1),
  ),
  Leak(
    'pooled_over_time',
    'A summary of the whole sequence is added to every slot.',
    _of('pooled_over_time'),
    (0, 0),
  ),
  Leak(
    'sorted_over_time',
    'Features are sorted along the sequence before a causal sum.',
    _of('sorted_over_time'),
    (1, 5),
  ),
  Leak(
    'fft_wraps_around',
    'A convolution by FFT is not padded, so that its end enters its start.',
    lambda: sequence(
      'fft_wraps_around', sequences.fft_wraps_around, causality='rounding'
    ),
    (0, 4),
  ),
  Leak(
    'padded_on_both_sides',
    "A convolution is padded evenly ('SAME') instead of on the left.",
    _of('padded_on_both_sides'),
    (0, 0),
  ),
  Leak(
    'causal_by_slot',
    'Positions are tied in pairs, but masks and shifts go by single slots.',
    lambda: sequence(
      'causal_by_slot', sequences.causal_by_slot, rank=order.blocks(LENGTH, 2)
    ),
    (1, 0),
    ('one_pass',),  # as a model in raster order it is normalised
  ),
  Leak(
    'order_ignored',
    'The rank says last to first; the network goes first to last.',
    lambda: sequence(
      'order_ignored',
      sequences.causal_by_slot,
      rank=order.reverse(order.raster(LENGTH)),
    ),
    (5, 0),
    ('one_pass',),  # as above
  ),
  Leak(
    'scanned_from_the_end',
    'A recurrence runs backwards, as one half of a bidirectional network.',
    _of('scanned_from_the_end'),
    (0, 0),
  ),
  Leak(
    'routed_over_tokens',
    'Experts choose the best tokens of the whole sequence (top-k routing).',
    _of('routed_over_tokens'),
    (1, 4),
  ),
  Leak(
    'dropped_by_the_data',
    'Dropout is seeded by the example, so that all of it decides who is kept.',
    _of('dropped_by_the_data'),
    (3, 5),
  ),
  Leak(
    'head_over_positions',
    'The network is causal; the head subtracts the mean over positions.',
    _head_over_positions,
    (0, 1),
  ),
  Leak(
    'masked_by_the_data',
    'The mask is made of the data alone; the causal one is forgotten.',
    _of('masked_by_the_data'),
    (0, 1),
    (),
  ),
  Leak(
    'closed_by_the_data',
    'Data and causal mask together may close a row, which -1e9 then opens.',
    _of('closed_by_the_data'),
    (0, 1),
    certain=False,
  ),
  Leak(
    'attention_masked_by_zero',
    'Scores of the future are multiplied by 0; they must be minus infinity.',
    _of('attention_masked_by_zero'),
    (0, 1),
  ),
  Leak(
    'zero_times_infinity',
    'A mask of zeros multiplies the log of 0, and nan_to_num hides the nan.',
    _of('zero_times_infinity'),
    (1, 3),
    certain=False,
  ),
  Leak(
    'branch_on_the_end',
    'The last symbol chooses a branch (lax.cond) for every slot.',
    _of('branch_on_the_end'),
    (0, 5),
    (),
  ),
  Leak(
    'switch_by_the_count',
    'The number of ones in the sequence chooses a branch (lax.switch).',
    _of('switch_by_the_count'),
    (0, 5),
    (),
  ),
  Leak(
    'any_over_the_sequence',
    'A choice asks whether a 1 stands anywhere in the sequence.',
    _of('any_over_the_sequence'),
    (0, 5),
    (),
  ),
  Leak(
    'gated_by_the_next',
    'A product with a gate that is one slot too early.',
    _of('gated_by_the_next'),
    (1, 2),
    (),
  ),
  Leak(
    'fft_low_pass',
    'Frequencies are cut off, so that every slot reads all.',
    _of('fft_low_pass', causality='rounding'),
    (1, 3),
    (),
  ),
  Leak(
    'fft_of_gates',
    'A spectrum is multiplied by learned gates, some of them closed.',
    _of('fft_of_gates', causality='rounding'),
    (1, 3),
    (),
  ),
  Leak(
    'median_over_time',
    'The median over the sequence is taken off.',
    _of('median_over_time'),
    (1, 4),
    (),
  ),
  Leak(
    'scaled_by_the_range',
    'Activations are divided by their range over the sequence.',
    _of('scaled_by_the_range'),
    (1, 4),
    (),
  ),
  Leak(
    'rolled_around',
    'A roll in place of a shift feeds the last symbol to slot 0.',
    _of('rolled_around'),
    (0, 5),
    (),
  ),
)


def unnormalised() -> model.AutoregressiveModel:
  """A causal model whose head forgets the normaliser; law 2 must reject it."""
  right = sequence('unnormalised', sequences.causal_by_slot)
  head = heads.bernoulli()._replace(
    name='bernoulli without its normaliser',
    log_prob=lambda logits, x: logits * x,
  )
  return model.from_function(
    right.conditionals,
    event=right.event,
    rank=right.rank,
    head=head,
    init=right.init,
    name='unnormalised',
  )
