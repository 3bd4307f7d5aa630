"""A causal Transformer of `nn.TransformerEncoder`, as PyTorch users write it.

The same network as `parallel_ar.models.transformer` with learned positions:
pre-norm layers, tanh-GELU, no dropout, a triangular mask, and a start vector
before the shifted symbols. PyTorch's projections of the attention have biases,
which ours have not; they start from zero. Needs torch, which the project itself
does not.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils import checkpoint


class Transformer(nn.Module):
  """Logits float[B, L, V] of symbols int[B, L]."""

  def __init__(
    self,
    length: int,
    num_values: int,
    features: int,
    layers: int,
    heads: int,
    checkpointed: bool = False,
  ):
    """Arguments as in `parallel_ar.models.transformer`.

    Args:
      length: L.
      num_values: V.
      features: N.
      layers: encoder layers.
      heads: attention heads.
      checkpointed: keep the inputs of layers only, and compute them again.
    """
    super().__init__()
    self.embed = nn.Embedding(num_values, features)
    self.start = nn.Parameter(torch.zeros(1, features))
    self.positions = nn.Parameter(torch.zeros(length, features))
    layer = nn.TransformerEncoderLayer(
      features,
      heads,
      4 * features,
      dropout=0.0,
      activation=lambda x: functional.gelu(x, approximate='tanh'),
      layer_norm_eps=1e-6,
      batch_first=True,
      norm_first=True,
    )
    self.encoder = nn.TransformerEncoder(
      layer, layers, enable_nested_tensor=False
    )
    self.norm = nn.LayerNorm(features, eps=1e-6)
    self.logits = nn.Linear(features, num_values)
    self.checkpointed = checkpointed
    mask = nn.Transformer.generate_square_subsequent_mask(length)
    self.register_buffer('mask', mask)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps symbols to logits."""
    start = self.start.expand(x.shape[0], -1, -1)
    y = torch.cat([start, self.embed(x[:, :-1])], 1) + self.positions
    if self.checkpointed:
      for layer in self.encoder.layers:
        y = checkpoint.checkpoint(
          layer, y, self.mask, is_causal=True, use_reentrant=False
        )
    else:
      y = self.encoder(y, mask=self.mask, is_causal=True)
    return self.logits(self.norm(y))


def mean_nats(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
  """-(1/B) sum_b log p(x_b), nats per example."""
  logits = module(x).flatten(0, 1)
  total = functional.cross_entropy(logits, x.flatten(), reduction='sum')
  return total / x.shape[0]


def load(module: Transformer, params: Mapping[str, Any]) -> None:
  """Copies the parameters of our Transformer of the same sizes."""
  copy(module.embed.weight, params['embed']['embedding'])
  copy(module.start, params['start'])
  copy(module.positions, params['positions'])
  for l, layer in enumerate(module.encoder.layers):
    ours = params[f'block_{l}']
    attention = layer.self_attn
    copy(attention.in_proj_weight, np.asarray(ours['att']['qkv']['kernel']).T)
    copy(attention.out_proj.weight, np.asarray(ours['att']['out']['kernel']).T)
    for bias in (attention.in_proj_bias, attention.out_proj.bias):
      nn.init.zeros_(bias)
    _linear(layer.linear1, ours['up'])
    _linear(layer.linear2, ours['down'])
    _norm(layer.norm1, ours['norm_att'])
    _norm(layer.norm2, ours['norm_mlp'])
  _norm(module.norm, params['norm'])
  _linear(module.logits, params['logits'])


def _linear(layer: nn.Linear, ours: Mapping[str, Any]) -> None:
  copy(layer.weight, np.asarray(ours['kernel']).T)
  copy(layer.bias, ours['bias'])


def _norm(layer: nn.LayerNorm, ours: Mapping[str, Any]) -> None:
  copy(layer.weight, ours['scale'])
  copy(layer.bias, ours['bias'])


def copy(target: nn.Parameter, value: Any) -> None:
  """Copies an array into a parameter of its shape."""
  value = np.array(value, np.float32)
  if value.shape != tuple(target.shape):
    raise ValueError(
      f'A parameter of shape {value.shape} does not fit a PyTorch parameter of '
      f'shape {tuple(target.shape)}. Build both networks with the same sizes.'
    )
  with torch.no_grad():
    target.copy_(torch.from_numpy(value))
