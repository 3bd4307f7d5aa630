"""Models of others, as records that `./run.sh audit --model=` can audit.

  python -m experiments.audit --model=third_party.peers.audited:gpt2

`gpt2` (Hugging Face transformers) and `zuko_made` (zuko) run in PyTorch, called
from JAX, so that only the audit by perturbation sees inside. `pixelcnn` and
`gated_pixelcnn` are those of pytorch-generative, expressed in JAX after their
descriptions; the static audit reads them. All have random parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import heads, model, order

LENGTH, VALUES = 12, 7
SIDE, CHANNELS, FEATURES = 7, 3, 8


def gpt2() -> model.AutoregressiveModel:
  """Two blocks of GPT-2; slot i is fed a start symbol and x_<i."""
  import torch
  import transformers

  torch.set_num_threads(1)
  torch.manual_seed(0)
  config = transformers.GPT2Config(
    vocab_size=VALUES + 1,
    n_positions=LENGTH,
    n_embd=16,
    n_layer=2,
    n_head=2,
    initializer_range=0.5,
  )
  network = transformers.GPT2LMHeadModel(config).eval()

  def logits(x: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(np.array(x)).long()
    start = torch.full_like(x[:, :1], VALUES)
    fed = torch.cat([start, x[:, :-1]], 1)
    with torch.no_grad():
      return network(fed).logits[..., :VALUES].float().numpy()

  return _bridge('GPT-2', logits, (LENGTH,), heads.categorical(VALUES), VALUES)


def zuko_made() -> model.AutoregressiveModel:
  """zuko's masked network with the adjacency of a MADE in raster order."""
  import torch
  import zuko

  torch.set_num_threads(1)
  torch.manual_seed(0)
  adjacency = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(-1)
  network = zuko.nn.MaskedMLP(adjacency, hidden_features=(64, 64))

  def logits(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
      return network(2 * torch.from_numpy(np.array(x)).float() - 1).numpy()

  return _bridge('zuko MaskedMLP', logits, (LENGTH,), heads.bernoulli())


def _bridge(
  name: str,
  network: Callable[[np.ndarray], np.ndarray],
  event: tuple[int, ...],
  head: Any,
  *values: int,
) -> model.AutoregressiveModel:
  """A record around a network of batches that JAX cannot trace."""
  spec = jax.ShapeDtypeStruct((*event, *values), jnp.float32)

  def batched(x: np.ndarray) -> np.ndarray:
    lead = np.shape(x)[: np.ndim(x) - len(event)]
    out = network(np.asarray(x).reshape(-1, *event))
    return np.ascontiguousarray(out.reshape(*lead, *spec.shape), np.float32)

  def conditionals(params: Any, x: jax.Array, context: Any) -> jax.Array:
    return jax.pure_callback(batched, spec, x, vmap_method='broadcast_all')

  return model.from_function(
    conditionals, event=event, rank=order.raster(event), head=head, name=name
  )


def pixelcnn() -> model.AutoregressiveModel:
  """PixelCNN with whole kernels that are multiplied by a mask, 3 channels."""

  def net(params: list[Any], x: jax.Array) -> jax.Array:
    weights = iter(params)
    y = _conv(x, next(weights), _mask(7, center=False))
    for _ in range(2):
      r = _conv(jax.nn.relu(y), next(weights))
      r = _conv(jax.nn.relu(r), next(weights), _mask(3, center=True))
      y = 2 * y + _conv(jax.nn.relu(r), next(weights))
    y = _conv(jax.nn.relu(y), next(weights))
    return _conv(jax.nn.relu(y), next(weights))

  wide = 2 * FEATURES
  block = [(1, 1, wide, FEATURES), (3, 3, FEATURES, FEATURES)]
  block.append((1, 1, FEATURES, wide))
  tail = [(1, 1, wide, FEATURES), (1, 1, FEATURES, CHANNELS)]
  shapes = [(7, 7, CHANNELS, wide), *block, *block, *tail]
  return _images('pytorch-generative PixelCNN', net, shapes)


def gated_pixelcnn() -> model.AutoregressiveModel:
  """Gated PixelCNN with stacks of padded and cropped convolutions."""

  def layer(
    weights: Any, vertical: jax.Array, across: jax.Array, size: int, first: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    half = size // 2
    v = _pad_conv(vertical, next(weights), (0, 0), (half, half))
    v = _pad_conv(v, next(weights), (half + 1, half + 1), (0, 0))[:SIDE]
    link = _conv(v, next(weights))
    vertical = _gate(v + _conv(vertical, next(weights)))
    edge = half + int(first)
    h = _pad_conv(across, next(weights), (0, 0), (edge, edge))[:, :SIDE]
    h = _gate(link + h)
    skip = _conv(h, next(weights))
    h = _conv(h, next(weights))
    return vertical, h if first else h + across, skip

  def net(params: list[Any], x: jax.Array) -> jax.Array:
    weights = iter(params)
    v, h, total = layer(weights, x, x, 7, True)
    for _ in range(2):
      v, h, skip = layer(weights, v, h, 3, False)
      total = total + skip
    y = _conv(jax.nn.relu(total), next(weights))
    return _conv(jax.nn.relu(y), next(weights))

  def shapes(inputs: int, size: int) -> list[tuple[int, ...]]:
    n, half = FEATURES, size // 2 + 1
    return [
      (1, size, inputs, n),
      (half, 1, n, 2 * n),
      (1, 1, 2 * n, 2 * n),
      (1, 1, inputs, 2 * n),
      (1, half, inputs, 2 * n),
      (1, 1, n, n),
      (1, 1, n, n),
    ]

  tail = [(1, 1, FEATURES, FEATURES), (1, 1, FEATURES, CHANNELS)]
  whole = [*shapes(CHANNELS, 7), *shapes(FEATURES, 3), *shapes(FEATURES, 3)]
  return _images('pytorch-generative Gated PixelCNN', net, [*whole, *tail])


def _images(
  name: str, net: Callable, shapes: Sequence[tuple[int, ...]]
) -> model.AutoregressiveModel:
  """A binary model of images [H, W, C] of a network of kernels."""
  event = SIDE, SIDE, CHANNELS

  def init(key: jax.Array) -> list[jax.Array]:
    keys = jax.random.split(key, len(shapes))
    scale = lambda s: (2.0 / np.prod(s[:-1])) ** 0.5
    return [
      scale(s) * jax.random.normal(k, s)
      for k, s in zip(keys, shapes, strict=True)
    ]

  return model.from_function(
    lambda params, x, context: net(params, 2.0 * x - 1.0),
    event=event,
    rank=order.raster(event),
    head=heads.bernoulli(),
    init=init,
    name=name,
  )


def _mask(size: int, center: bool) -> np.ndarray:
  """Rows above, and of the own row what is left, with or without itself."""
  mask = np.zeros((size, size, 1, 1), np.float32)
  mask[: size // 2] = 1
  mask[size // 2, : size // 2 + int(center)] = 1
  return mask


def _conv(y: jax.Array, kernel: jax.Array, mask: Any = 1.0) -> jax.Array:
  half = kernel.shape[0] // 2
  return _pad_conv(y, kernel * mask, (half, half), (half, half))


def _pad_conv(
  y: jax.Array, kernel: jax.Array, rows: tuple, columns: tuple
) -> jax.Array:
  return jax.lax.conv_general_dilated(
    y[None],
    kernel,
    (1, 1),
    (rows, columns),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )[0]


def _gate(y: jax.Array) -> jax.Array:
  first, gate = jnp.split(y, 2, -1)
  return jnp.tanh(first) * jax.nn.sigmoid(gate)
