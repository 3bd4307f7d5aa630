"""mu-P: what was tuned at one width serves every width.

`optimizer.mup_base` has fields of the model at the width that was tuned, such
as features=64, heads=4. The parameters of both are compared by their shapes: an
axis of other size is one that grows, the last axis is the fan-out, and those
before it are the fan-in. With r the fan-in over that of the base,

  fan-in                          initial rms      rate of Adam
  does not grow                   the base's       1         inputs, biases
  grows, as the fan-out does      / sqrt(r)        1 / r     hidden layers
  grows, the fan-out does not     / r              1 / r     outputs

as in table 8 of Yang et al. (Adam), where the multiplier 1/r of an output is
part of its rms and its rate: by their lemma J.1 that is the same training, and
so no family has code for it. What a family draws is kept where it agrees.
Scores of attention must go as 1/K in the size K of a head: let the heads grow
and not their size, or set `attention_scale` where a family has it.

References:
  Yang et al.: Tensor Programs V: tuning large neural networks via zero-shot
  hyperparameter transfer. NeurIPS 2021, arXiv:2203.03466.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from parallel_ar import models as models_lib
from parallel_ar import resolve
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import rules
from parallel_ar.types import Array, Params, PRNGKey


class Growth(NamedTuple):
  """Of a parameter, over the base: how often its fan-in and fan-out are."""

  fan_in: float
  fan_out: float

  @property
  def rate(self) -> float:
    """Factor of Adam's rate."""
    return 1 / self.fan_in

  @property
  def rms(self) -> float:
    """Factor of the base's root mean square."""
    output = self.fan_in != 1 and self.fan_out == 1
    return 1 / self.fan_in if output else self.fan_in**-0.5


def rates(config: ConfigDict) -> dict[str, float] | None:
  """A parameter's path -> factor of its rate, or None without a mup_base.

  Args:
    config: of a run.

  Raises:
    ValueError: the base is no narrower or wider model of the same form, or has
      no output layer, or heads of another size.
  """
  if not config.optimizer.mup_base:
    return None
  return {path: growth.rate for path, growth in growths(config).items()}


def initialised(
  model: AutoregressiveModel, config: ConfigDict
) -> AutoregressiveModel:
  """The model, whose initial parameters have the rms of the table above.

  Args:
    model: of `config.model`.
    config: of a run.

  Returns:
    A record with another `init`; `model` itself without a mup_base.

  Raises:
    ValueError: as `rates`; or the model's init reads data.
  """
  if not config.optimizer.mup_base:
    return model
  if model.init_from_data is not None:
    raise ValueError(
      f'{model.name} starts from data, which sets the scale of every layer; '
      'leave config.optimizer.mup_base empty.'
    )
  base, grown = _base(config), growths(config)

  def init(key: PRNGKey) -> Params:
    one = lambda path, leaf, narrow: _scaled(
      leaf, narrow, grown[rules.path_name(path)].rms
    )
    return jax.tree_util.tree_map_with_path(
      one, model.init(key), base.init(key)
    )

  return dataclasses.replace(model, init=init)


def growths(config: ConfigDict) -> dict[str, Growth]:
  """A parameter's path -> how it grows over the base.

  Raises:
    ValueError: see `rates`.
  """
  here = _shapes(models_lib.build(config.model)[0])
  there = _shapes(_base(config))
  where = f'config.optimizer.mup_base = {config.optimizer.mup_base.to_dict()}'
  axes = [{(p, len(s)) for p, s in found.items()} for found in (here, there)]
  if other := axes[0] ^ axes[1]:
    raise ValueError(
      f'{where} has other parameters than config.model, and must differ in '
      f'widths only: {min(other)[0]}.'
    )
  _check_heads(config, where)
  ratio = lambda new, old: math.prod(new) / math.prod(old)
  grown = {
    path: Growth(
      ratio(shape[:-1], there[path][:-1]), ratio(shape[-1:], there[path][-1:])
    )
    for path, shape in here.items()
  }
  if here != there and all(g.rms == g.fan_in**-0.5 for g in grown.values()):
    raise ValueError(
      f'{where}: no parameter has a fan-in that grows and a fan-out that does '
      'not, so nothing is an output layer. Tied embeddings (tied=True), NADE '
      'and models without a last dense layer have no mu-P by shapes.'
    )
  return grown


def _base(config: ConfigDict) -> AutoregressiveModel:
  fields = config.model.to_dict() | config.optimizer.mup_base.to_dict()
  return models_lib.build(fields)[0]


def _shapes(model: AutoregressiveModel) -> dict[str, tuple[int, ...]]:
  params = jax.eval_shape(model.init, jax.random.key(0))
  return {
    rules.path_name(path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def _scaled(leaf: Array, narrow: Array, factor: float) -> Array:
  """The leaf with `factor` times the rms of the base's leaf.

  Factors that sampling explains (3 standard errors of a normal's rms) are 1,
  and so is that of what is all zero.
  """
  if leaf.size == 0 or not jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf
  rms = lambda a: jnp.sqrt(jnp.mean(jnp.square(a.astype(jnp.float32))))
  is_, wanted = rms(leaf), factor * rms(narrow)
  noise = 3 * math.sqrt(0.5 / leaf.size + 0.5 / narrow.size)
  change = wanted / jnp.where(is_ > 0, is_, 1)
  same = (is_ == 0) | (jnp.abs(jnp.log(jnp.maximum(change, 1e-30))) <= noise)
  return leaf * jnp.where(same, 1, change).astype(leaf.dtype)


def _check_heads(config: ConfigDict, where: str) -> None:
  """Refuses heads of attention whose size grows and whose scores do not say so.

  The size is `key_features`, or features / heads, where a family has them.
  """
  model = config.model.to_dict()
  here = _head_size(model)
  there = _head_size(model | config.optimizer.mup_base.to_dict())
  if here is None or there is None or here == there:
    return
  wanted = math.sqrt(there / here)
  cure = ''
  if 'attention_scale' in models_lib.fields(model['name']):
    if math.isclose(model.get('attention_scale', 1), wanted, rel_tol=1e-3):
      return
    cure = f', or set config.model.attention_scale = {wanted:.5g}'
  raise ValueError(
    f'{where} has heads of size {there:g}, and config.model of {here:g}: their '
    'scores go as 1/sqrt(K), where mu-P needs 1/K. Let the number of heads '
    f'grow with the width, and not their size{cure}.'
  )


def _head_size(model: dict[str, Any]) -> float | None:
  """Of a `model` section, with the defaults of its family."""
  taken = resolve.parameters(models_lib.FAMILIES.get(model['name'], _no_family))

  def value(name: str) -> Any:
    return model.get(name, taken[name].default) if name in taken else None

  if (size := value('key_features')) is not None:
    return float(size)
  width, heads = value('features'), value('heads')
  return width / heads if width and heads else None


def _no_family() -> None:
  """Stands for a function of one's own."""
