"""Transformer decoder over the slots of any order with groups of one size.

  y_0[k] = embed(x at slot k - g) + position[k]     (a start vector for k < g)
  y      = y + attention(norm(y)),   y = y + mlp(norm(y))     in every block
  logits[k] = W norm(y[k])

g is the size of the groups: 1 for a total order, and then slot k reads slots
< k. With tied groups the inputs are shifted by a whole group and attention is
causal between groups: the g slots of a group are predicted together.

Where g is 1 the model brings a decode path that keeps keys and values: slot k
costs O(k N) for attention and O(N^2) for the rest, instead of a whole pass.

References:
  Vaswani et al.: Attention is all you need. NeurIPS 2017.
  Xiong et al.: On layer normalization in the transformer architecture. ICML
  2020 (pre-norm). Su et al.: RoFormer. 2021 (rotary positions). Press, Wolf:
  Using the output embedding to improve language models. 2017 (tying). Child et
  al.: Generating long sequences with sparse transformers. 2019 (patterns).
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order, partition
from parallel_ar.adapters import linen
from parallel_ar.decode import Decode
from parallel_ar.heads.categorical import categorical
from parallel_ar.layers import attention, embedding, kernels
from parallel_ar.layers import remat as remat_policies
from parallel_ar.models.transformer_block import Block, Period
from parallel_ar.types import Array, ArrayLike, Context, Params

Positions = Literal['rotary', 'learned']


class Transformer(nn.Module):
  """The network; see `transformer` for the attributes."""

  slots: Any  # int[D], positions in the order they are drawn
  group: int
  num_values: int
  features: int
  layers: int
  heads: int
  mlp_features: int
  positions: Positions
  tied: bool
  num_classes: int
  chunk: int
  pattern: Sequence[attention.Pattern]
  window: int
  remat: str
  kernel: kernels.Kernels
  scan_layers: bool
  dtype: Any
  attention_bias: bool
  norm_epsilon: float
  attention_scale: float

  def __call__(self, x: Array, context: Context) -> Array:
    """One pass: float[E, V]."""
    slots = np.asarray(self.slots)
    start = jnp.zeros(self.group, x.dtype)  # read by no slot
    previous = x.reshape(-1)[slots[: slots.size - self.group]]
    logits, _ = self.extend(
      jnp.concatenate([start, previous]), jnp.arange(slots.size), context, None
    )
    logits = order.to_positions(logits, slots)
    return logits.reshape(*x.shape, self.num_values)

  @nn.compact
  def extend(
    self,
    previous_L: Array,
    slots_L: Array,
    context: Context,
    cache: tuple[attention.KeyValues, ...] | None,
  ) -> tuple[Array, tuple[attention.KeyValues | None, ...]]:
    """Logits of the slots `slots_L`, whose inputs are `previous_L`.

    Args:
      previous_L: the symbol one group before each slot; ignored in the first.
      slots_L: int[L], all slots, or the next ones of the cache.
      context: label, vector or None.
      cache: of each block; None for all slots at once.

    Returns:
      float32[L, V] and the cache of each block.
    """
    width = self.features
    embed = nn.Embed(self.num_values, width, dtype=self.dtype, name='embed')
    normal = nn.initializers.normal(0.02)
    start = self.param('start', normal, (self.group, width), jnp.float32)
    first = start[jnp.minimum(slots_L, self.group - 1)].astype(self.dtype)
    y_LN = jnp.where((slots_L < self.group)[:, None], first, embed(previous_L))
    if self.positions == 'learned':
      shape = len(self.slots), width
      table = self.param('positions', normal, shape, jnp.float32)
      y_LN = y_LN + table[slots_L].astype(self.dtype)
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    y_LN = partition.over_slots(add(y_LN, context), cache)
    caches: Any = []
    if self.scan_layers:
      y_LN, caches = self._periods(cache)(y_LN, cache, slots_L)
    elif self._in_a_loop(cache):
      y_LN = self._loop(y_LN, slots_L)
    else:
      for l in range(self.layers):
        y_LN, kept = self._block(l, name=f'block_{l}')(
          y_LN, slots_L, cache[l] if cache else None
        )
        caches.append(kept)
    norm = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name='norm')
    y_LN = norm(y_LN)
    if self.tied:
      logits = embed.attend(y_LN)
    else:
      logits = nn.Dense(self.num_values, dtype=self.dtype, name='logits')(y_LN)
    return logits.astype(jnp.float32), tuple(caches)

  def _shared(self) -> dict[str, Any]:
    """What all blocks have in common."""
    names = (
      *('heads', 'mlp_features', 'group', 'chunk', 'window', 'kernel'),
      *('dtype', 'attention_bias', 'norm_epsilon', 'attention_scale'),
    )
    rotary = {'rotary': self.positions == 'rotary'}
    return {name: getattr(self, name) for name in names} | rotary

  def _block(self, layer: int, **where: Any) -> Block:
    pattern = self.pattern[layer % len(self.pattern)]
    return Block(**self._shared(), pattern=pattern, **where)

  def _periods(self, cache: Any) -> nn.Module:
    """All blocks as a loop whose parameters lie in stacks, one turn a period.

    One period is compiled, whatever the number of layers.
    """
    period: Any = Period
    if cache is None and self.remat != 'none':
      policy = remat_policies.POLICIES[self.remat]
      period = nn.remat(Period, policy=policy, prevent_cse=False)
    turns = nn.scan(
      period,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),
      length=self.layers // len(self.pattern),
    )
    made: nn.Module = turns(
      tuple(self.pattern), self._shared(), name=partition.STACKS
    )
    return made

  def _in_a_loop(self, cache: Any) -> bool:
    """Whether checkpoints are wanted, of a pass whose parameters are there."""
    wanted = self.remat != 'none' and cache is None
    return wanted and not self.is_initializing()

  def _loop(self, y_LN: Array, slots_L: Array) -> Array:
    """All blocks in a loop, each computed again in the backward pass.

    Laid out one after another, XLA on a CPU recomputes the blocks too but
    schedules that early, and saves no memory. A loop leaves it no choice.
    """
    count = len(self.pattern)
    params = self.variables['params']

    def turn(y_LN: Array, own: Any) -> tuple[Array, None]:
      for n, part in enumerate(own):
        block = self._block(n, parent=None)
        y_LN, _ = block.apply({'params': part}, y_LN, slots_L, None)
      return y_LN, None

    policy = remat_policies.POLICIES[self.remat]
    turn = jax.checkpoint(turn, policy=policy, prevent_cse=False)
    whole = self.layers - self.layers % count
    every = [params[f'block_{l}'] for l in range(self.layers)]
    turns = [tuple(every[l : l + count]) for l in range(0, whole, count)]
    if turns:
      stacked = jax.tree.map(lambda *p: jnp.stack(p), *turns)
      y_LN, _ = jax.lax.scan(turn, y_LN, stacked)
    return turn(y_LN, every[whole:])[0]


def _decode(module: Transformer) -> Decode:
  """Incremental evaluation with a cache of keys and values."""

  def init(params: Params, context: Context) -> Any:
    del params
    length, size = len(module.slots), module.features // module.heads
    empty = attention.KeyValues(
      jnp.zeros((module.heads, size, length), module.dtype),
      jnp.zeros((module.heads, length, size), module.dtype),
    )
    if not module.scan_layers:
      return (empty,) * module.layers, context
    count = module.layers // len(module.pattern)
    stack = jax.tree.map(lambda a: jnp.stack([a] * count), empty)
    return (stack,) * len(module.pattern), context

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    blocks, context = cache
    logits, blocks = module.apply(
      {'params': params},
      previous,
      k + jnp.arange(previous.shape[0]),
      context,
      blocks,
      method='extend',
    )
    return logits, (blocks, context)

  def resize(cache: Any, n: int) -> Any:
    blocks, context = cache
    one = lambda kept: attention.resize(kept, n)
    if module.scan_layers:
      one = jax.vmap(one)
    return tuple(one(kept) for kept in blocks), context

  # What stands beyond slot k is masked, then overwritten.
  return Decode(init, extend, lambda cache, k: cache, resize)


def transformer(
  *,
  event: Sequence[int],
  num_values: int,
  rank: ArrayLike | None = None,
  features: int = 128,
  layers: int = 4,
  heads: int = 4,
  mlp_features: int = 0,
  positions: Positions = 'rotary',
  tied: bool = False,
  num_classes: int = 0,
  context_size: int = 0,
  chunk: int = 0,
  pattern: Sequence[attention.Pattern] = ('full',),
  window: int = 64,
  remat: str = 'none',
  attention_kernel: kernels.Kernels = 'loops',
  scan_layers: bool = False,
  dtype: Any = jnp.float32,
  attention_bias: bool = False,
  norm_epsilon: float = 1e-6,
  attention_scale: float = 1.0,
) -> model.AutoregressiveModel:
  """Builds a Transformer decoder.

  Args:
    event: event shape E.
    num_values: V.
    rank: int[E], any order whose groups have one size; raster by default.
    features: N.
    layers: blocks.
    heads: attention heads H.
    mlp_features: width of the MLP; 0 means 4 N.
    positions: 'rotary', or 'learned' for a table over slots.
    tied: the output layer is the embedding.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    chunk: queries that attention takes at once; changes speed and memory only.
      0 chooses by the length, see `layers.attention`.
    pattern: 'full', 'local' or 'strided' for each block, repeated over them:
      ('local', 'strided') is a Sparse Transformer.
    window: slots of a local window, and the stride.
    remat: policy for the blocks, see `layers.remat`; they run in a loop then.
    attention_kernel: 'auto' takes the kernel of the platform where it fits,
      see `layers.kernels`; changes speed, memory and rounding.
    scan_layers: the blocks are one loop over parameters that lie in stacks: a
      program, and its compilation, as small as one period of the pattern. Other
      parameters than without: they have a leading axis.
    dtype: of the products; parameters are float32.
    attention_bias: queries, keys, values and the output have biases, as in
      GPT-2 (`pretrained.gpt2`).
    norm_epsilon: added to the variance by the layer norms.
    attention_scale: of the scores, beside 1 / sqrt(K); for heads whose size
      grows under mu-P (`training.mup`).

  Returns:
    The model.

  Raises:
    ValueError: groups of different sizes, sizes that do not fit, a sparse
      pattern with tied groups, or layers that are no whole periods of the
      pattern in a scan.
  """
  rank = order.check(order.raster(event) if rank is None else rank, event)
  group = _group_size(rank)
  module = Transformer(
    slots=order.slots(rank),
    group=group,
    num_values=num_values,
    features=features,
    layers=layers,
    heads=heads,
    mlp_features=mlp_features or 4 * features,
    positions=positions,
    tied=tied,
    num_classes=num_classes,
    chunk=chunk,
    pattern=tuple(pattern),
    window=window,
    remat=remat,
    kernel=attention_kernel,
    scan_layers=scan_layers,
    dtype=dtype,
    attention_bias=attention_bias,
    norm_epsilon=norm_epsilon,
    attention_scale=attention_scale,
  )
  _check(module)
  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=categorical(num_values),
    context=embedding.context_spec(num_classes, context_size),
    decode=_decode(module) if group == 1 else None,
    name='transformer',
  )


def _group_size(rank: np.ndarray) -> int:
  """The size of all groups.

  Raises:
    ValueError: they have several.
  """
  group = order.group_size(rank)
  if group is None:
    raise ValueError(
      'A Transformer shifts its inputs by one group, so all groups of the rank '
      f'must have one size; got sizes {np.bincount(rank.reshape(-1))[:8]}. Use '
      'a total order, order.blocks with a size that divides the event, or MADE.'
    )
  return group


def _check(module: Transformer) -> None:
  """Refuses what the blocks cannot be.

  Raises:
    ValueError: an unknown option, or a pattern that does not fit the layers of
      a scan, its window or tied groups.
  """
  if module.positions not in get_args(Positions):
    raise ValueError(
      f"positions must be 'rotary' or 'learned'; got {module.positions!r}."
    )
  remat_policies.remat(Block, module.remat)  # refuses an unknown policy
  kernels.check(module.kernel)
  pattern, group = module.pattern, module.group
  if module.scan_layers and pattern and module.layers % len(pattern):
    raise ValueError(
      f'scan_layers repeats the pattern {pattern}, so layers must be a '
      f'multiple of {len(pattern)}; got {module.layers}.'
    )
  unknown = set(pattern) - set(get_args(attention.Pattern))
  tied_groups = group > 1 and set(pattern) != {'full'}
  if unknown or not pattern or module.window < 1 or tied_groups:
    raise ValueError(
      "pattern holds 'full', 'local' or 'strided' for the blocks in turn, with "
      f'a window of at least 1; got {pattern} and window={module.window}. Tied '
      f'groups (here of {group}) take full attention only.'
    )
