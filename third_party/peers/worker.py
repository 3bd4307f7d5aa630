"""One program of a benchmark in a process of its own.

  python -m third_party.peers.worker '{"framework": "torch", ...}'

It builds its training step, takes one step, prints a line of JSON with the
loss of that step, and then takes n steps for every line with a number n on its
input. At the end of the input it prints its peak memory. Processes of their
own keep two thread pools from competing, and give each side its own memory.

Both frameworks read network, parameters and batch from one file, so they start
from the same numbers; the process of PyTorch never imports JAX.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
Step = Callable[[], float]  # takes one training step; its loss, nats/example


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
    spec: 'model' section of a config, and 'micro_batches'.
    arrays: 'x' and 'params/...'.

  Returns:
    The step.
  """
  import jax
  import jax.numpy as jnp

  from parallel_ar import models
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

  def run() -> float:
    nonlocal current
    current, metrics = train_step(current, batch)
    return float(metrics['loss_nats'])

  return run


def torch_step(spec: Mapping[str, Any], arrays: Arrays) -> Step:
  """The same network, loss and optimizer in PyTorch.

  Args:
    spec: 'model' section of a config, 'threads', and of the variant 'style',
      'channels_last', 'fused' (Adam in one kernel), 'compiled' and
      'micro_batches'.
    arrays: 'x', 'params/...', and for MADE 'rank' and 'degrees/0', ...

  Returns:
    The step.
  """
  import torch

  from third_party.peers import torch_models

  torch.set_num_threads(spec['threads'])
  x = torch.from_numpy(arrays['x'].astype(np.float32))
  model = spec['model']
  module: torch.nn.Module
  if model['name'] == 'made':
    hidden = [arrays[f'degrees/{l}'] for l in range(len(model['hidden']))]
    module = torch_models.MADE(arrays['rank'], hidden)
    torch_models.load_made(module, unflatten(arrays))
  else:
    names = ('features', 'layers', 'size', 'first_size', 'head_features')
    sizes = {name: model[name] for name in names}
    style = spec.get('style', 'masked')
    module = torch_models.GatedPixelCNN(**sizes, style=style)
    torch_models.load_gated_pixelcnn(module, unflatten(arrays))
    x = x.permute(0, 3, 1, 2).contiguous()
  if spec.get('channels_last'):
    module = module.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
  adam = torch.optim.Adam(
    module.parameters(), lr=1e-3, fused=spec.get('fused', False)
  )
  loss = torch_models.mean_nats
  if spec.get('compiled'):
    loss = torch.compile(loss)
  parts = spec.get('micro_batches', 1)

  def run() -> float:
    adam.zero_grad()
    total = 0.0
    for part in x.chunk(parts):
      nats = loss(module, part) / parts
      nats.backward()
      total += nats.item()
    adam.step()
    return total

  return run


def main() -> None:
  """Runs the process."""
  spec = json.loads(sys.argv[1])
  if hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))[: spec['threads']]
    os.sched_setaffinity(0, cores)  # XLA makes as many threads
  with np.load(spec['arrays']) as file:
    arrays = dict(file)
  build = our_step if spec['framework'] == 'parallel_ar' else torch_step
  step = build(spec, arrays)
  _say(loss_nats=step())
  for line in sys.stdin:
    loss = float('nan')
    for _ in range(int(line)):
      loss = step()
    _say(loss_nats=loss)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  _say(peak_bytes=peak * (1 if sys.platform == 'darwin' else 1024))


def _say(**facts: float) -> None:
  print(json.dumps(facts), flush=True)


if __name__ == '__main__':
  main()
