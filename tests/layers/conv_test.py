"""Cropped convolutions equal masked full ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.layers import conv

IMAGE = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


def apply(layer, x=IMAGE, seed=1):
  """Random parameters of a layer, and its output."""
  specs = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  rng = np.random.default_rng(seed)
  draw = lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype)
  params = jax.tree.map(draw, specs)
  return params, np.asarray(layer.apply({'params': params}, x))


def full_conv(x, kernel):
  """A k x k convolution with zeros around, tap by tap in float64."""
  half = kernel.shape[0] // 2
  padded = np.pad(x.astype(np.float64), ((half, half), (half, half), (0, 0)))
  height, width = x.shape[:2]
  return sum(
    padded[i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )


def masked_kernel(size, above, left, mask):
  """The field's way: a full kernel, zero where the mask is."""
  kernel = np.zeros((size, size, *left.shape[2:]))
  half = size // 2
  kernel[:half] = above
  kernel[half, : left.shape[1]] = left[0]
  if left.shape[1] > half:
    kernel[half, half] *= mask
  return kernel


@pytest.mark.parametrize('kind', ['A', 'B'])
@pytest.mark.parametrize(('size', 'channels'), [(3, 1), (5, 3)])
def test_masked_conv_is_the_masked_full_convolution(kind, size, channels):
  layer = conv.MaskedConv(6, size, kind, channels)
  params, y = apply(layer)
  mask = conv.center_mask(3, 6, kind, channels)
  kernel = masked_kernel(
    size, params['above']['kernel'], params['left']['kernel'], mask
  )
  want = full_conv(IMAGE, kernel) + np.asarray(params['left']['bias'])
  np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(('kind', 'rows'), [('A', 2), ('B', 3)])
def test_rows_above_is_the_masked_full_convolution(kind, rows):
  params, y = apply(conv.RowsAbove(6, 5, kind))
  kernel = np.zeros((5, 5, 3, 6))
  kernel[:rows] = params['kernel']
  want = full_conv(IMAGE, kernel) + np.asarray(params['bias'])
  np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
  ('event', 'features', 'kernel', 'above', 'left'),
  [
    ((1, 2, 1), 12, (1, 1), 1, 1),  # all that is read lies outside
    ((1, 4, 6), 24, (1, 1), 1, 0),
    ((4, 4, 12), 12, (2, 2), 2, 2),
    ((4, 4, 12), 12, (2, 1), 2, 0),
    ((3, 2, 2), 3, (3, 1), 1, 0),
  ],
)
def test_a_shift_beyond_the_kernel_reads_zeros(
  event, features, kernel, above, left
):
  """Forwards and backwards; some CPU kernels read beyond the array there."""
  rng = np.random.default_rng(0)
  x, step = rng.normal(size=(2, 3, *event)).astype(np.float32)
  w = rng.normal(size=(*kernel, event[-1], features)).astype(np.float32)

  def plain(x):
    y = np.zeros((*x.shape[:-1], features))
    for r, c, i, j in np.ndindex(*event[:2], *kernel):
      a, b = r - above + i, c - left + j
      if 0 <= a < event[0] and 0 <= b < event[1]:
        y[:, r, c] += x[:, a, b] @ w[i, j]
    return y

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(x):
    one = functools.partial(conv.conv2d, kernel=w, above=above, left=left)
    y = jax.vmap(one)(x)
    return (y * y).sum() / 2, y

  (_, y), slope = loss(x)
  np.testing.assert_allclose(y, plain(x), rtol=1e-4, atol=1e-4)
  want = (plain(x) * plain(step)).sum()
  np.testing.assert_allclose((slope * step).sum(), want, rtol=1e-3)


def test_only_live_taps_are_parameters():
  """About half of k^2, whatever the field stores."""
  params, _ = apply(conv.MaskedConv(1, 7, 'A'), IMAGE[..., :1])
  count = sum(p.size for p in jax.tree.leaves(params))
  assert count == 3 * 7 + 3 + 1


def test_a_size_one_b_kernel_is_a_one_by_one():
  params, y = apply(conv.MaskedConv(2, 1, 'B'))
  assert params['left']['kernel'].shape == (1, 1, 3, 2)
  want = IMAGE @ np.asarray(params['left']['kernel'])[0, 0]
  np.testing.assert_allclose(
    y, want + np.asarray(params['left']['bias']), rtol=1e-5, atol=1e-5
  )


class TestCenterMask:
  def test_type_a_reads_lower_groups_only(self):
    np.testing.assert_array_equal(
      conv.center_mask(3, 3, 'A', 3), [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    )

  def test_type_b_reads_its_own_too(self):
    np.testing.assert_array_equal(
      conv.center_mask(3, 3, 'B', 3), [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    )

  def test_groups_are_repeated_for_the_halves_of_a_gate(self):
    once = conv.center_mask(6, 3, 'B', 3)
    np.testing.assert_array_equal(
      conv.center_mask(6, 6, 'B', 3, repeats=2), np.tile(once, (1, 2))
    )

  def test_one_group(self):
    assert not conv.center_mask(2, 4, 'A', 1).any()
    assert conv.center_mask(2, 4, 'B', 1).all()


class TestErrors:
  @pytest.mark.parametrize('size', [0, 2, 4])
  @pytest.mark.parametrize(
    'layer', [conv.MaskedConv, conv.RowsAbove, conv.RowLeft]
  )
  def test_a_kernel_needs_a_centre(self, layer, size):
    with pytest.raises(ValueError, match=f'odd kernel size; got {size}'):
      apply(layer(3, size, 'B'))

  @pytest.mark.parametrize(
    'layer', [conv.MaskedConv, conv.RowLeft, conv.RowsAbove]
  )
  def test_a_kernel_that_reads_nothing(self, layer):
    with pytest.raises(ValueError, match='reads nothing; use a size of at lea'):
      apply(layer(3, 1, 'A'))

  def test_kinds(self):
    with pytest.raises(ValueError, match="'A' or 'B'; got C"):
      conv.center_mask(3, 3, 'C', 1)

  def test_features_are_shared_evenly(self):
    with pytest.raises(ValueError, match='4 features .* 3 channel groups'):
      apply(conv.MaskedConv(4, 3, 'B', 3))
