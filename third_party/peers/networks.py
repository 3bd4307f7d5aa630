"""The networks whose training step is timed, and the programs that take it."""

from typing import Any, NamedTuple

from experiments import kernels

OURS, EAGER = 'parallel_ar', 'PyTorch, eager'
BFLOAT16 = 'bfloat16'  # the last word of the name of a program in it


# Ours with each set of XLA's kernels, whatever the environment has chosen.
KERNELS = {
  f'parallel_ar, {name} kernels': {'kernels': flag}
  for name, flag in kernels.SETS.items()
}


class Network(NamedTuple):
  """What is timed.

  Attributes:
    model: `model` section of a config.
    batch: examples of a step.
    steps: steps that one time is the mean of.
    goal: largest ratio of our time to that of 'PyTorch, eager'.
    programs: name -> what `worker` is told beside the model; `OURS` and
      `EAGER` are among them.
  """

  model: dict[str, Any]
  batch: int
  steps: int
  goal: float
  programs: dict[str, dict[str, Any]]


NETWORKS = {
  'made': Network(
    {'name': 'made', 'event': (784,), 'hidden': (500, 500)},
    batch=100,
    steps=20,
    goal=0.35,
    programs={
      OURS: {},
      **KERNELS,
      EAGER: {},
      'PyTorch, fused Adam': {'fused': True},
      'PyTorch, compiled, fused Adam': {'fused': True, 'compiled': True},
    },
  ),
  'gated_pixelcnn': Network(
    {
      'name': 'gated_pixelcnn',
      'event': (28, 28, 1),
      'features': 64,
      'layers': 8,
      'size': 3,
      'first_size': 7,
      'head_features': 32,
    },
    batch=32,
    steps=1,
    goal=0.75,
    programs={
      OURS: {},
      **KERNELS,
      'parallel_ar, 4 micro-batches': {'micro_batches': 4},
      EAGER: {},
      'PyTorch, cropped kernels': {'style': 'cropped'},
      'PyTorch, cropped, 4 micro-batches': {
        'style': 'cropped',
        'micro_batches': 4,
      },
      'PyTorch, cropped, channels last, fused Adam': {
        'style': 'cropped',
        'channels_last': True,
        'fused': True,
      },
      'PyTorch, cropped, compiled, fused Adam': {
        'style': 'cropped',
        'compiled': True,
        'fused': True,
      },
    },
  ),
}


WORKED = {  # see configs/worked_example.py
  'name': 'transformer',
  'num_values': 512,
  'features': 512,
  'layers': 6,
  'heads': 8,
  'positions': 'learned',
}


CHECKPOINTED: dict[str, Any] = {'checkpointed': True}


def _worked_example(length: int, batch: int) -> Network:
  """The worked example, with and without checkpoints on either side."""
  model = {**WORKED, 'event': (length,)}
  programs: dict[str, dict[str, Any]] = {
    OURS: {},
    'parallel_ar, checkpoints': {'model': {**model, 'remat': 'full'}},
    EAGER: {},
    'PyTorch, checkpoints': CHECKPOINTED,
  }
  return Network(model, batch, steps=1, goal=1.0, programs=programs)


NETWORKS |= {
  'worked_example_100': _worked_example(100, 32),
  'worked_example_1000': _worked_example(1000, 4),
  'worked_example_8000': _worked_example(8000, 1),
}


def _on_a_gpu(
  model: dict[str, Any], batch: int, steps: int, **compiled: Any
) -> Network:
  """Float32 and bfloat16 of both sides; `compiled`: of the compiled PyTorch."""
  short = {**model, 'dtype': 'bfloat16'}
  fast = {'compiled': True, 'fused': True, **compiled}
  programs: dict[str, dict[str, Any]] = {
    OURS: {'precision': 'highest'},
    f'{OURS}, {BFLOAT16}': {'model': short},
    EAGER: {},
    'PyTorch, compiled': fast,
    f'{EAGER}, {BFLOAT16}': {'bfloat16': True},
    f'PyTorch, compiled, {BFLOAT16}': {**fast, 'bfloat16': True},
  }
  if model['name'] == 'transformer':
    fused = {'model': {**short, 'attention_kernel': 'auto'}}
    programs[f'{OURS}, cuDNN attention, {BFLOAT16}'] = fused
  return Network(model, batch, steps, goal=1.0, programs=programs)


# Sizes that keep a GPU busy.
GPU_NETWORKS = {
  'made': _on_a_gpu(
    {'name': 'made', 'event': (784,), 'hidden': (8000,)}, batch=512, steps=50
  ),
  'gated_pixelcnn': _on_a_gpu(
    NETWORKS['gated_pixelcnn'].model,
    batch=256,
    steps=20,
    style='cropped',
    channels_last=True,
  ),
  # All seven programs hold their memory at once: 32 was too much for 80 GB.
  'transformer': _on_a_gpu({**WORKED, 'event': (1024,)}, batch=16, steps=10),
  'wavenet': _on_a_gpu(
    {
      'name': 'wavenet',
      'event': (4096,),
      'num_values': 256,
      'features': 128,
      'skip_features': 256,
      'layers': 10,
    },
    batch=16,
    steps=10,
  ),
}


def on(platform: str | None) -> dict[str, Network]:
  """The networks of a platform."""
  return GPU_NETWORKS if platform == 'cuda' else NETWORKS
