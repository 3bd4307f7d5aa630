"""Weights that others trained, as models of ours.

  model, params = par.pretrained.gpt2('gpt2', length=128)
  par.log_prob(model, params, tokens)            # nats, exact, one pass
  par.cached(model)(params, keys, x=tokens, known=known)   # a completion

A checkpoint is data: its config is JSON and its weights are arrays
(`safetensors`), so nothing of it runs. What the file holds is compared with
what the model takes, name by name and shape by shape.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from parallel_ar.model import AutoregressiveModel
from parallel_ar.models.transformer import transformer
from parallel_ar.types import Params

# Fields of a GPT-2 config that change the function, and what ours computes.
_ONLY: dict[str, tuple[Any, ...]] = {
  'model_type': ('gpt2',),
  'activation_function': ('gelu_new', 'gelu_pytorch_tanh'),
  'scale_attn_weights': (True,),
  'scale_attn_by_inverse_layer_idx': (False,),
  'add_cross_attention': (False,),
}
_DEFAULTS: dict[str, Any] = {
  'model_type': 'gpt2',
  'activation_function': 'gelu_new',
  'scale_attn_weights': True,
  'scale_attn_by_inverse_layer_idx': False,
  'add_cross_attention': False,
  'layer_norm_epsilon': 1e-5,
  'tie_word_embeddings': True,
  'n_inner': None,
  'bos_token_id': None,
}
_SIZES = ('vocab_size', 'n_positions', 'n_embd', 'n_layer', 'n_head')
_BLOCK = {  # of a block: ours -> theirs
  'norm_att/scale': 'ln_1.weight',
  'norm_att/bias': 'ln_1.bias',
  'att/qkv/kernel': 'attn.c_attn.weight',
  'att/qkv/bias': 'attn.c_attn.bias',
  'att/out/kernel': 'attn.c_proj.weight',
  'att/out/bias': 'attn.c_proj.bias',
  'norm_mlp/scale': 'ln_2.weight',
  'norm_mlp/bias': 'ln_2.bias',
  'up/kernel': 'mlp.c_fc.weight',
  'up/bias': 'mlp.c_fc.bias',
  'down/kernel': 'mlp.c_proj.weight',
  'down/bias': 'mlp.c_proj.bias',
}


def gpt2(
  path: str | os.PathLike[str], *, length: int = 0, start: int | None = None
) -> tuple[AutoregressiveModel, Params]:
  """A GPT-2 of Hugging Face's format as our Transformer.

  The network is fed a start symbol and then x, so that slot k reads x[:k] and
  log_prob(model, params, x) = log p(x_1 | start) + log p(x_2 | start, x_1) ...

  Args:
    path: directory with config.json and model.safetensors.
    length: L, tokens of an event; 0 takes all that there are positions for.
    start: the token before the first one; None takes the config's
      bos_token_id (of GPT-2, its end of text).

  Returns:
    The model, event (L,) of tokens in 0..vocab_size-1, and its parameters,
    float32.

  Raises:
    ImportError: safetensors is not installed.
    FileNotFoundError: one of the two files is missing.
    ValueError: it is no GPT-2, has an option that ours has not, lacks an array
      or has one of another shape; or `length` or `start` do not fit.

  References:
    Radford et al.: Language models are unsupervised multitask learners. 2019.
  """
  fields = gpt2_fields(path, length=length)
  model = transformer(**fields)
  config = _config(pathlib.Path(path))
  start = config['bos_token_id'] if start is None else start
  if start is None or not 0 <= start < fields['num_values']:
    raise ValueError(
      f'start={start}: expected a token in 0..{fields["num_values"] - 1} that '
      'stands before every event; the config.json names no other.'
    )
  arrays = _Arrays(pathlib.Path(path) / 'model.safetensors')
  width, inner = fields['features'], fields['mlp_features']
  shapes = {
    'norm_att/scale': (width,),
    'norm_att/bias': (width,),
    'att/qkv/kernel': (width, 3 * width),
    'att/qkv/bias': (3 * width,),
    'att/out/kernel': (width, width),
    'att/out/bias': (width,),
    'norm_mlp/scale': (width,),
    'norm_mlp/bias': (width,),
    'up/kernel': (width, inner),
    'up/bias': (inner,),
    'down/kernel': (inner, width),
    'down/bias': (width,),
  }
  values = fields['num_values']
  table = arrays.take('wte.weight', (values, width))
  places = arrays.take('wpe.weight', (config['n_positions'], width))
  params: dict[str, Any] = {
    'embed': {'embedding': table},
    'start': table[start][None],
    'positions': places[: fields['event'][0]],
    'norm': {
      'scale': arrays.take('ln_f.weight', (width,)),
      'bias': arrays.take('ln_f.bias', (width,)),
    },
  }
  if not fields['tied']:
    head = arrays.take('lm_head.weight', (values, width))
    zeros = np.zeros(values, np.float32)
    params['logits'] = {'kernel': head.T, 'bias': zeros}
  for l in range(fields['layers']):
    params[f'block_{l}'] = _nested(
      {
        ours: arrays.take(f'h.{l}.{theirs}', shapes[ours])
        for ours, theirs in _BLOCK.items()
      }
    )
  arrays.finish()
  return model, params


def gpt2_fields(
  path: str | os.PathLike[str], *, length: int = 0
) -> dict[str, Any]:
  """The arguments of `models.transformer` that a config.json of GPT-2 means.

  Args:
    path: directory with config.json.
    length: L, tokens of an event; 0 takes n_positions.

  Raises:
    FileNotFoundError: there is no config.json.
    ValueError: see `gpt2`.
  """
  config = _config(pathlib.Path(path))
  most = config['n_positions']
  if not 0 <= length <= most:
    raise ValueError(
      f'length={length}: the model has positions for 1 to {most} tokens.'
    )
  return {
    'event': (length or most,),
    'num_values': config['vocab_size'],
    'features': config['n_embd'],
    'layers': config['n_layer'],
    'heads': config['n_head'],
    'mlp_features': config['n_inner'] or 4 * config['n_embd'],
    'positions': 'learned',
    'tied': config['tie_word_embeddings'],
    'attention_bias': True,
    'norm_epsilon': config['layer_norm_epsilon'],
  }


def _config(path: pathlib.Path) -> dict[str, Any]:
  """The config.json, with defaults, checked."""
  file = path / 'config.json'
  if not file.exists():
    raise FileNotFoundError(
      f'{file} is missing: a checkpoint is a directory with config.json and '
      'model.safetensors, as `save_pretrained` of transformers writes it.'
    )
  try:
    read = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} is not JSON: {error}.') from error
  if not isinstance(read, dict):
    raise ValueError(f'{file} holds no object, but {type(read).__name__}.')
  config = _DEFAULTS | read
  for field, allowed in _ONLY.items():
    if config[field] not in allowed:
      raise ValueError(
        f'{file}: {field} = {config[field]!r}, but `gpt2` reads models with '
        f'{" or ".join(map(repr, allowed))} only. Another network comes in '
        'as a function of your own: docs/own_model.md.'
      )
  for field in _SIZES:
    size = config.get(field)
    if not isinstance(size, int) or size < 1:
      raise ValueError(
        f'{file}: {field} = {size!r}; expected a whole number above 0.'
      )
  return config


class _Arrays:
  """The arrays of a file, each taken once, by name and shape."""

  def __init__(self, path: pathlib.Path):
    try:
      from safetensors import SafetensorError
      from safetensors.numpy import load_file
    except ImportError as error:
      raise ImportError(
        'Weights of Hugging Face need safetensors: pip install '
        "'parallel_ar[safetensors]'."
      ) from error
    if not path.exists():
      raise FileNotFoundError(
        f'{path} is missing. Weights in another form (pytorch_model.bin) are '
        'programs when they are read, and are not taken: save them again with '
        'safe_serialization=True.'
      )
    try:
      self._arrays = load_file(path)
    except SafetensorError as error:
      raise ValueError(
        f'{path} cannot be read as safetensors: {error}. Fetch it again.'
      ) from error
    self._path, self._taken = path, set[str]()

  def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of a name, float32."""
    for full in (name, f'transformer.{name}'):
      if full in self._arrays:
        break
    else:
      raise ValueError(
        f'{self._path} has no array {name}, which a GPT-2 of this config '
        f'needs; it has {len(self._arrays)}, such as '
        f'{", ".join(sorted(self._arrays)[:3])}.'
      )
    self._taken.add(full)
    found = self._arrays[full]
    if found.shape != shape:
      raise ValueError(
        f'{self._path}: {full} has shape {found.shape}; config.json asks for '
        f'{shape}. The two files are of different models.'
      )
    return found.astype(np.float32)

  def finish(self) -> None:
    """Refuses a file with weights that nobody took; masks are no weights."""
    masks = ('.attn.bias', '.attn.masked_bias')
    rest = {n for n in self._arrays if not n.endswith(masks)} - self._taken
    rest -= {'lm_head.weight'}  # of a tied model, the table once more
    if rest:
      raise ValueError(
        f'{self._path} has {len(rest)} arrays that a GPT-2 of this config has '
        f'not, such as {min(rest)}. The two files are of different models.'
      )


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """'a/b' -> {'a': {'b': ...}}."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, last = path.split('/')
    place = tree
    for parent in parents:
      place = place.setdefault(parent, {})
    place[last] = leaf
  return tree
