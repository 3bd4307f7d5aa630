"""MADE and Gated PixelCNN in PyTorch, as its users write them.

The same networks as `parallel_ar.models.made` and
`parallel_ar.models.gated_pixelcnn`, after the papers, with two ways to mask a
convolution:

  'masked'   a full kernel times a 0/1 mask in every forward pass: what the
             common PyTorch implementations do
  'cropped'  a kernel of the live taps only: what a user who cares for speed
             can write

`load` carries the parameters of our models across, so that losses can be
compared number by number. Needs torch, which the project itself does not.

References:
  Germain, Gregor, Murray, Larochelle: MADE. ICML 2015.
  van den Oord et al.: Conditional image generation with PixelCNN decoders.
  NIPS 2016.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Style = Literal['masked', 'cropped']
Kind = Literal['A', 'B']


class MaskedLinear(nn.Linear):
  """y = (W * M) x + b."""

  def __init__(self, mask: np.ndarray):
    """mask: bool[in, out], which inputs an output may read."""
    super().__init__(*mask.shape)
    live = torch.from_numpy(np.ascontiguousarray(mask.T))
    self.register_buffer('mask', live.to(torch.float32))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps float[B, in] to float[B, out]."""
    return functional.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
  """Logits float[B, D] of events float[B, D] in {0, 1}."""

  def __init__(self, rank: np.ndarray, hidden: Sequence[np.ndarray]):
    """Builds the masks.

    Args:
      rank: int[D], rank of each input in the generation order.
      hidden: int[N] of each hidden layer, the degrees of its units.
    """
    super().__init__()
    layers, known = [], rank
    for degree in hidden:
      layers += [MaskedLinear(known[:, None] <= degree[None]), nn.ReLU()]
      known = degree
    layers.append(MaskedLinear(known[:, None] < rank[None]))
    self.net = nn.Sequential(*layers)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps events to logits."""
    return self.net(x)


class MaskedConv2d(nn.Conv2d):
  """A k x k or 1 x k convolution whose kernel is multiplied by a mask."""

  def __init__(self, inputs: int, outputs: int, live: np.ndarray):
    """live: bool[h, w], the taps that are not zero; both sizes odd."""
    padding = (live.shape[0] // 2, live.shape[1] // 2)
    super().__init__(inputs, outputs, live.shape, padding=padding)
    self.register_buffer('mask', torch.from_numpy(live).to(torch.float32))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps float[B, N, H, W] to float[B, F, H, W]."""
    return functional.conv2d(
      x, self.weight * self.mask, self.bias, padding=self.padding
    )


class CroppedConv2d(nn.Conv2d):
  """The same function with only the upper left live taps in the kernel.

  Padding is symmetric, because that is what the library does without a copy;
  the rows and columns too many are cut off.
  """

  def __init__(self, inputs: int, outputs: int, live: np.ndarray):
    """live: bool[h, w], a rectangle of ones in the upper left corner."""
    size = (int(live.any(1).sum()), int(live.any(0).sum()))
    padding = (live.shape[0] // 2, live.shape[1] // 2)
    super().__init__(inputs, outputs, size, padding=padding)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps float[B, N, H, W] to float[B, F, H, W]."""
    return super().forward(x)[..., : x.shape[-2], : x.shape[-1]]


class GatedLayer(nn.Module):
  """One layer of the vertical and the horizontal stack."""

  def __init__(
    self, inputs: int, features: int, size: int, kind: Kind, style: Style
  ):
    """Builds the layer.

    Args:
      inputs: channels of both stacks' inputs.
      features: N, channels of both outputs.
      size: kernel size, odd.
      kind: 'A' for the first layer, which has no residual.
      style: how convolutions are masked.
    """
    super().__init__()
    conv = MaskedConv2d if style == 'masked' else CroppedConv2d
    half = size // 2 + (kind == 'B')
    above, left = np.zeros((size, size), bool), np.zeros((1, size), bool)
    above[:half], left[:, :half] = True, True
    self.vertical = conv(inputs, 2 * features, above)
    self.horizontal = conv(inputs, 2 * features, left)
    self.link = nn.Conv2d(2 * features, 2 * features, 1, bias=False)
    self.out = nn.Conv2d(features, features, 1)
    self.residual = kind == 'B'

  def forward(
    self, v: torch.Tensor, h: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (v, h) to (v', h'), each float[B, N, H, W]."""
    v = self.vertical(v)
    y = self.out(gate(self.horizontal(h) + self.link(v)))
    return gate(v), h + y if self.residual else y


class GatedPixelCNN(nn.Module):
  """Logits float[B, 1, H, W] of binary images float[B, 1, H, W]."""

  def __init__(
    self,
    features: int = 64,
    layers: int = 8,
    size: int = 3,
    first_size: int = 7,
    head_features: int = 32,
    style: Style = 'masked',
  ):
    """Arguments as in `parallel_ar.models.gated_pixelcnn`."""
    super().__init__()
    self.layers = nn.ModuleList(
      GatedLayer(features, features, size, 'B', style)
      if l
      else GatedLayer(1, features, first_size, 'A', style)
      for l in range(layers)
    )
    self.head = nn.Conv2d(features, head_features, 1)
    self.logits = nn.Conv2d(head_features, 1, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps images to logits."""
    v = h = 2 * x - 1
    for layer in self.layers:
      v, h = layer(v, h)
    h = functional.relu(self.head(functional.relu(h)))
    return self.logits(h)


def gate(y: torch.Tensor) -> torch.Tensor:
  """tanh(a) sigmoid(b) for the halves a, b of the channels."""
  a, b = y.chunk(2, 1)
  return torch.tanh(a) * torch.sigmoid(b)


def mean_nats(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
  """-(1/B) sum_b log p(x_b), nats per example, for binary x."""
  total = functional.binary_cross_entropy_with_logits(
    module(x), x, reduction='sum'
  )
  return total / x.shape[0]


def load_made(module: MADE, params: Mapping[str, Any]) -> None:
  """Copies the parameters of our MADE with as many hidden layers."""
  linear = [m for m in module.net if isinstance(m, MaskedLinear)]
  names = [f'hidden_{l}' for l in range(len(linear) - 1)] + ['out']
  for name, layer in zip(names, linear, strict=True):
    _copy(layer.weight, np.asarray(params[name]['kernel']).T)
    _copy(layer.bias, params[name]['bias'])


def load_gated_pixelcnn(
  module: GatedPixelCNN, params: Mapping[str, Any]
) -> None:
  """Copies the parameters of our Gated PixelCNN of the same sizes."""
  for l, layer in enumerate(module.layers):
    ours = params[f'layer_{l}']
    for name in ('vertical', 'horizontal'):
      _copy_taps(getattr(layer, name), ours[name]['kernel'])
      _copy(getattr(layer, name).bias, ours[name]['bias'])
    _copy_taps(layer.link, ours['link']['kernel'])
    _copy_taps(layer.out, ours['out']['kernel'])
    _copy(layer.out.bias, ours['out']['bias'])
  for name in ('head', 'logits'):
    _copy_taps(getattr(module, name), params[name]['kernel'])
    _copy(getattr(module, name).bias, params[name]['bias'])


def _copy_taps(conv: nn.Conv2d, kernel: Any) -> None:
  """A kernel float[(h, w,) N, F] into the upper left taps; zeros elsewhere."""
  kernel = np.asarray(kernel)
  kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)
  kernel = kernel.transpose(3, 2, 0, 1)
  height, width = (
    max(0, there - here)
    for there, here in zip(conv.weight.shape[2:], kernel.shape[2:], strict=True)
  )
  _copy(conv.weight, np.pad(kernel, ((0, 0), (0, 0), (0, height), (0, width))))


def _copy(target: nn.Parameter, value: Any) -> None:
  value = np.array(value, np.float32)
  if value.shape != tuple(target.shape):
    raise ValueError(
      f'A parameter of shape {value.shape} does not fit a PyTorch parameter of '
      f'shape {tuple(target.shape)}. Build both networks with the same sizes.'
    )
  with torch.no_grad():
    target.copy_(torch.from_numpy(value))
