"""One program of a benchmark in a process of its own.

  python -m third_party.peers.worker '{"task": "torch_step", ...}'

It builds its training step, or its sampler, runs it once, prints a line of JSON
with the value that it gave (the loss of that step), and then runs it n times
for every line with a number n on its input, and waits for the last. At the end
of the input it prints its peak memory: resident, or the GPU's. Processes of
their own keep two thread pools from competing, and give each side its own
memory.

Both frameworks read network, parameters and batch from one file, so they start
from the same numbers; the process of PyTorch never imports JAX.
"""

import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Takes one training step; its loss, nats an example, for which float() waits.
Step = Callable[[], Any]


def unflatten(arrays: Arrays) -> dict[str, Any]:
  """{'params/a/b': x, ...} -> {'a': {'b': x}}; other names are left out."""
  tree: dict[str, Any] = {}
  for name, value in arrays.items():
    if not name.startswith('params/'):
      continue
    _, *path, leaf = name.split('/')
    node = tree
    for key in path:
      node = node.setdefault(key, {})
    node[leaf] = value
  return tree


def our_step(spec: Mapping[str, Any], arrays: Arrays) -> Step:
  """The project's own model, loss, optimizer and training step.

  Args:
    spec: 'model' section of a config, 'micro_batches', and 'precision' of
      float32 products.
    arrays: 'x' and 'params/...'.

  Returns:
    The step.
  """
  import jax
  import jax.numpy as jnp

  from parallel_ar import models, precision
  from parallel_ar.training import configuration, optimizer, state, step

  section = configuration.default_config().optimizer
  built = models.build(spec['model'])
  transform = optimizer.make(section, steps=1)
  schedule = optimizer.schedule(section, steps=1)
  parts = spec.get('micro_batches', 1)
  if parts > 1:
    train_step = step.make_accumulated_step(
      built, transform, schedule=schedule, accumulate=parts
    )
  else:
    train_step = jax.jit(
      step.make_train_step(built, transform, schedule=schedule),
      donate_argnums=0,
    )
  params = jax.tree.map(jnp.asarray, unflatten(arrays))
  current = state.TrainState(
    jnp.zeros((), jnp.int32), params, None, transform.init(params)
  )
  batch = {'x': jnp.asarray(arrays['x'], jnp.int32)}
  level = spec.get('precision', 'default')

  def run() -> Any:
    nonlocal current
    with precision.scope(level):
      current, metrics = train_step(current, batch)
    return metrics['loss_nats']

  return run


def torch_step(spec: Mapping[str, Any], arrays: Arrays) -> Step:
  """The same network, loss and optimizer in PyTorch.

  Args:
    spec: 'model' section of a config, 'threads', 'platform', and of the variant
      'style', 'channels_last', 'fused' (Adam in one kernel), 'compiled' (True,
      or a mode of torch.compile), 'micro_batches', and 'bfloat16' (autocast;
      attention by FlashAttention or not at all).
    arrays: 'x', 'params/...', and for MADE 'rank' and 'degrees/0', ...

  Returns:
    The step.
  """
  import torch

  torch.set_num_threads(spec['threads'])
  torch.backends.cudnn.allow_tf32 = False  # that of products is off by default
  torch.backends.cudnn.benchmark = True
  device = torch.device(spec.get('platform') or 'cpu')
  module, loss, x = _torch_network(spec, arrays)
  module, x = module.to(device), x.to(device)
  if spec.get('channels_last'):
    module = module.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
  adam = torch.optim.Adam(
    module.parameters(), lr=1e-3, fused=spec.get('fused', False)
  )
  if mode := spec.get('compiled'):
    loss = torch.compile(loss, mode=None if mode is True else mode)
  parts = spec.get('micro_batches', 1)

  def run() -> torch.Tensor:
    adam.zero_grad()
    total = torch.zeros((), device=device)
    for part in x.chunk(parts):
      with _kind(spec, device.type):
        nats = loss(module, part) / parts
      nats.backward()
      total += nats.detach()
    adam.step()
    return total

  return run


@contextlib.contextmanager
def _kind(spec: Mapping[str, Any], device: str) -> Iterator[None]:
  """Products in float32, or in bfloat16."""
  import torch
  from torch.nn import attention

  if not spec.get('bfloat16'):
    yield
    return
  with contextlib.ExitStack() as stack:
    stack.enter_context(torch.autocast(device, torch.bfloat16))
    if spec['model']['name'] == 'transformer':
      flash = attention.SDPBackend.FLASH_ATTENTION
      stack.enter_context(attention.sdpa_kernel(flash))
    yield


def _torch_network(
  spec: Mapping[str, Any], arrays: Arrays
) -> tuple[Any, Any, Any]:
  """The module with our parameters, its loss, and its batch."""
  import torch

  from third_party.peers import torch_models, torch_wavenet

  model = spec['model']
  x = torch.from_numpy(arrays['x'].astype(np.float32))
  params = unflatten(arrays)
  if model['name'] == 'transformer':
    return *_torch_transformer(spec, arrays), x.long()
  if model['name'] == 'wavenet':
    names = ('num_values', 'features', 'skip_features', 'layers')
    wavenet = torch_wavenet.WaveNet(**{name: model[name] for name in names})
    torch_wavenet.load(wavenet, params)
    return wavenet, torch_wavenet.mean_nats, x.long()
  if model['name'] == 'made':
    hidden = [arrays[f'degrees/{l}'] for l in range(len(model['hidden']))]
    made = torch_models.MADE(arrays['rank'], hidden)
    torch_models.load_made(made, params)
    return made, torch_models.mean_nats, x
  names = ('features', 'layers', 'size', 'first_size', 'head_features')
  image = torch_models.GatedPixelCNN(
    **{name: model[name] for name in names}, style=spec.get('style', 'masked')
  )
  torch_models.load_gated_pixelcnn(image, params)
  return image, torch_models.mean_nats, x.permute(0, 3, 1, 2).contiguous()


def _torch_transformer(spec: Mapping[str, Any], arrays: Arrays) -> Any:
  """The module with our parameters, and its loss."""
  from third_party.peers import torch_transformer

  model = spec['model']
  names = ('num_values', 'features', 'layers', 'heads')
  module = torch_transformer.Transformer(
    model['event'][0],
    **{name: model[name] for name in names},
    checkpointed=spec.get('checkpointed', False),
  )
  torch_transformer.load(module, unflatten(arrays))
  return module, torch_transformer.mean_nats


def our_sample(spec: Mapping[str, Any], arrays: Arrays) -> Step:
  """A batch of samples of ours, or its likelihood.

  Args:
    spec: 'model' section of a config; 'draw', the name of a sampler or
      'likelihood'; 'verify'.
    arrays: 'keys', 'params/...', and 'x' for the likelihood.

  Returns:
    draw() -> the mean symbol.
  """
  import jax
  import jax.numpy as jnp

  from parallel_ar import likelihood, models, samplers

  (model, *_) = models.build(spec['model'])
  params = jax.tree.map(jnp.asarray, unflatten(arrays))
  if spec['draw'] == 'likelihood':
    log_prob = jax.jit(lambda params, x: likelihood.log_prob(model, params, x))
    x = jnp.asarray(arrays['x'])
    return lambda: float(log_prob(params, x).mean())
  keys = jax.random.wrap_key_data(jnp.asarray(arrays['keys']))
  make = getattr(samplers, spec['draw'])
  draw = make(model, verify=spec.get('verify', True))
  return lambda: float(draw(params, keys).x.mean())


def torch_sample(spec: Mapping[str, Any], arrays: Arrays) -> Step:
  """A batch of samples in PyTorch, or a part of one.

  Args:
    spec: 'model' section of a config, 'threads'; for images 'crop' (feed only
      the rows so far), 'pixels' (how many are drawn), 'checked_rows'.
    arrays: 'keys' for the batch; for images 'params/...', 'x' and 'noise'.

  Returns:
    draw(); its first value is the number of pixels of the first rows that
    differ from 'x', drawn with 'noise'.
  """
  import torch

  torch.set_num_threads(spec['threads'])
  batch = len(arrays['keys'])
  model = spec['model']
  if model['name'] == 'transformer':
    return _generate(model, batch)
  from third_party.peers import torch_models

  names = ('features', 'layers', 'size', 'first_size', 'head_features')
  module = torch_models.GatedPixelCNN(**{name: model[name] for name in names})
  torch_models.load_gated_pixelcnn(module, unflatten(arrays))
  height, width, _ = model['event']
  noise = torch.from_numpy(np.array(arrays['noise'][..., 0]))
  x = torch.from_numpy(arrays['x'][..., 0].astype(np.float32))[:, None]

  @torch.inference_mode()
  def draw(image: torch.Tensor, places: Any) -> torch.Tensor:
    for k in places:
      row, column = divmod(int(k), width)
      seen = image[:, :, : row + 1] if spec['crop'] else image
      logit = module(seen)[:, 0, row, column]
      image[:, 0, row, column] = (logit + noise[:, row, column] > 0).float()
    return image

  rows = min(spec['checked_rows'], height)
  drawn = draw(torch.zeros_like(x), range(rows * width))
  wrong = (drawn != x)[:, :, :rows].sum().item()
  count = min(spec['pixels'], height * width)
  places = np.linspace(0, height * width - 1, count).round()
  said = False

  def run() -> float:
    nonlocal said
    if not said:
      said = True
      return float(wrong)
    return float(draw(x.clone(), places).mean())

  return run


def _generate(model: Mapping[str, Any], batch: int) -> Step:
  """Hugging Face's loop on a GPT-2 of the same size, of random weights."""
  import torch
  import transformers

  (length,) = model['event']
  config = transformers.GPT2Config(
    vocab_size=model['num_values'],
    n_positions=length,
    n_embd=model['features'],
    n_layer=model['layers'],
    n_head=model['heads'],
    bos_token_id=0,
    eos_token_id=None,
    pad_token_id=0,
  )
  module = transformers.GPT2LMHeadModel(config).eval()
  start = torch.zeros((batch, 1), dtype=torch.long)

  @torch.inference_mode()
  def run() -> float:
    tokens = module.generate(
      start,
      attention_mask=torch.ones_like(start),
      do_sample=True,
      top_k=0,
      use_cache=True,
      min_new_tokens=length - 1,
      max_new_tokens=length - 1,
    )
    assert tokens.shape == (batch, length)
    return float(tokens.float().mean())

  return run


BUILDERS = {
  'our_step': our_step,
  'torch_step': torch_step,
  'our_sample': our_sample,
  'torch_sample': torch_sample,
}


def main() -> None:
  """Runs the process."""
  spec = json.loads(sys.argv[1])
  if hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))[: spec['threads']]
    os.sched_setaffinity(0, cores)  # XLA makes as many threads
  with np.load(spec['arrays']) as file:
    arrays = dict(file)
  step = BUILDERS[spec['task']](spec, arrays)
  _say(value=float(step()))
  for line in sys.stdin:
    loss: Any = float('nan')
    for _ in range(int(line)):
      loss = step()
    _say(value=float(loss))
  _say(peak_bytes=_peak(spec))


def _peak(spec: Mapping[str, Any]) -> int:
  """Most bytes that were taken at once: of the GPU, or of this process."""
  if (spec.get('platform') or 'cpu') != 'cpu':
    if spec['task'].startswith('torch'):
      import torch

      return torch.cuda.max_memory_allocated()
    import jax

    return jax.local_devices()[0].memory_stats()['peak_bytes_in_use']
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == 'darwin' else 1024)


def _say(**facts: float) -> None:
  print(json.dumps(facts), flush=True)


if __name__ == '__main__':
  main()
