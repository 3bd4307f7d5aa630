"""WaveNet in PyTorch: dilated convolutions over padded sequences.

The same network as `parallel_ar.models.wavenet` with one stack and kernels of
two taps. Needs torch, which the project itself does not.

References:
  van den Oord et al.: WaveNet: a generative model for raw audio. 2016.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from third_party.peers.torch_models import gate
from third_party.peers.torch_transformer import copy, mean_nats

__all__ = ['WaveNet', 'load', 'mean_nats']


class Layer(nn.Module):
  """One gated layer: (y', its share of the skips)."""

  def __init__(
    self, features: int, skip_features: int, dilation: int, last: bool
  ):
    """Builds the layer; of the last one only the skip is read."""
    super().__init__()
    self.conv = nn.Conv1d(features, 2 * features, 2, dilation=dilation)
    self.skip = nn.Conv1d(features, skip_features, 1)
    self.out = None if last else nn.Conv1d(features, features, 1)
    self.dilation = dilation

  def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps float[B, N, L]."""
    z = gate(self.conv(functional.pad(y, (self.dilation, 0))))
    y = y if self.out is None else y + self.out(z)
    return y, self.skip(z)


class WaveNet(nn.Module):
  """Logits float[B, L, V] of symbols int[B, L]."""

  def __init__(
    self, num_values: int, features: int, skip_features: int, layers: int
  ):
    """Arguments as in `parallel_ar.models.wavenet`."""
    super().__init__()
    self.embed = nn.Embedding(num_values, features)
    self.start = nn.Parameter(torch.zeros(features))
    self.layers = nn.ModuleList(
      Layer(features, skip_features, 2**l, l == layers - 1)
      for l in range(layers)
    )
    self.head = nn.Conv1d(skip_features, skip_features, 1)
    self.logits = nn.Conv1d(skip_features, num_values, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps symbols to logits."""
    start = self.start.expand(x.shape[0], 1, -1)
    y = torch.cat([start, self.embed(x[:, :-1])], 1).mT
    total: Any = 0
    for layer in self.layers:
      y, skip = layer(y)
      total = total + skip
    y = functional.relu(self.head(functional.relu(total)))
    return self.logits(y).mT


def load(module: WaveNet, params: Mapping[str, Any]) -> None:
  """Copies the parameters of our WaveNet of the same sizes."""
  copy(module.embed.weight, params['embed']['embedding'])
  copy(module.start, params['start'])
  body = params['body']
  for l, layer in enumerate(module.layers):
    ours = body[f'layer_{l}']
    taps = ours['conv']['taps']
    now, before = np.split(np.asarray(taps['kernel']), 2)
    copy(layer.conv.weight, np.stack([before.T, now.T], -1))
    copy(layer.conv.bias, taps['bias'])
    _one(layer.skip, ours['skip'])
    if 'out' in ours:
      _one(layer.out, ours['out'])
  _one(module.head, body['head'])
  _one(module.logits, params['logits'])


def _one(conv: nn.Conv1d, ours: Mapping[str, Any]) -> None:
  copy(conv.weight, np.asarray(ours['kernel']).T[..., None])
  copy(conv.bias, ours['bias'])
