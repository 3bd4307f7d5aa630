"""The PyTorch networks of the benchmark compute what ours compute."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from parallel_ar import models  # noqa: E402
from parallel_ar.analysis import timing  # noqa: E402
from parallel_ar.models.made import hidden_degrees  # noqa: E402
from parallel_ar.training import step  # noqa: E402
from third_party.peers import (  # noqa: E402
  networks,
  sample,
  torch_models,
  torch_transformer,
  torch_wavenet,
  train_step,
  worker,
)

TINY = {
  'name': 'gated_pixelcnn',
  'event': (7, 6, 1),
  'features': 4,
  'layers': 3,
  'size': 3,
  'first_size': 5,
  'head_features': 6,
}


def ours(config, seed=0, batch=3):
  """Our models, parameters of no special values, a batch, loss, gradient."""
  built = models.build(config)
  params = jax.jit(built[0].init)(jax.random.key(seed))
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  noise = [rng.normal(0, 0.3, a.shape).astype(np.float32) for a in leaves]
  params = jax.tree.unflatten(tree, noise)  # biases must count, too
  x = rng.integers(0, 2, (batch, *built[0].event.shape)).astype(np.int32)
  loss = step.make_loss(built)
  value, grads = jax.jit(jax.value_and_grad(loss))(
    params, {'x': jnp.asarray(x)}, jnp.int32(0)
  )
  return built[0], params, x, float(value), grads


def made_module(model, config):
  rank = np.asarray(model.rank).reshape(-1)
  degrees = hidden_degrees(rank, config['hidden'], 'random', 0)
  return torch_models.MADE(rank, degrees)


def pixelcnn_module(config, style):
  sizes = {k: v for k, v in config.items() if k not in ('name', 'event')}
  return torch_models.GatedPixelCNN(**sizes, style=style)


@pytest.mark.parametrize('order', ['raster', 'random'])
def test_made(order):
  config = {'name': 'made', 'event': (12,), 'hidden': (9, 8), 'order': order}
  model, params, x, loss, grads = ours(config)
  module = made_module(model, config)
  torch_models.load_made(module, params)
  nats = torch_models.mean_nats(module, torch.tensor(x, dtype=torch.float32))
  np.testing.assert_allclose(nats.item(), loss, rtol=1e-4)
  nats.backward()
  np.testing.assert_allclose(
    module.net[2].weight.grad.T, grads['hidden_1']['kernel'], atol=1e-4
  )


@pytest.mark.parametrize('style', ['masked', 'cropped'])
def test_gated_pixelcnn(style):
  _, params, x, loss, grads = ours(TINY)
  module = pixelcnn_module(TINY, style)
  torch_models.load_gated_pixelcnn(module, params)
  images = torch.tensor(x, dtype=torch.float32).permute(0, 3, 1, 2)
  nats = torch_models.mean_nats(module, images)
  np.testing.assert_allclose(nats.item(), loss, rtol=1e-4)
  nats.backward()
  # The first layer's gradient has come through all the others.
  for name in ('vertical', 'horizontal'):
    kernel = np.asarray(grads['layer_0'][name]['kernel'])
    height, width = kernel.shape[:2]
    found = getattr(module.layers[0], name).weight.grad.permute(2, 3, 1, 0)
    np.testing.assert_allclose(found[:height, :width], kernel, atol=2e-4)
    assert not found[height:].any() and not found[:, width:].any()


def test_parameters_of_another_size_are_refused():
  _, params, *_ = ours(TINY)
  module = pixelcnn_module(TINY | {'features': 6}, 'cropped')
  with pytest.raises(ValueError, match='same sizes'):
    torch_models.load_gated_pixelcnn(module, params)


def test_another_network_is_not_timed():
  losses = {train_step.OURS: 100.0, train_step.EAGER: 100.005}
  train_step.check_losses(losses)
  with pytest.raises(RuntimeError, match='networks differ'):
    train_step.check_losses(losses | {'PyTorch, wrong': 100.2})
  with pytest.raises(RuntimeError, match='networks differ'):
    train_step.check_losses(losses | {'PyTorch, wrong': float('nan')})
  short = f'PyTorch, {networks.BFLOAT16}'
  train_step.check_losses(losses | {short: 100.5})
  with pytest.raises(RuntimeError, match='networks differ'):
    train_step.check_losses(losses | {short: 102.0})


def test_programs_are_compared_with_the_fastest_of_their_kind():
  seconds = {
    train_step.OURS: 3.0,
    train_step.EAGER: 4.0,
    'PyTorch, compiled': 2.0,
    f'parallel_ar, {networks.BFLOAT16}': 2.0,
    f'parallel_ar, cuDNN attention, {networks.BFLOAT16}': 1.0,
    f'PyTorch, compiled, {networks.BFLOAT16}': 0.5,
  }
  seconds = {name: np.full(3, value) for name, value in seconds.items()}
  rounds = timing.Rounds(seconds, seconds)
  name, ratio = train_step.fastest(rounds)
  assert (name, ratio.median) == ('PyTorch, compiled', 1.5)
  name, ratio = train_step.fastest(rounds, short=True)
  assert (name, ratio.median) == (f'PyTorch, compiled, {networks.BFLOAT16}', 2)


@pytest.mark.parametrize(
  'model',
  [TINY, {'name': 'made', 'event': (12,), 'hidden': (9, 8)}],
  ids=lambda m: m['name'],
)
def test_three_steps_of_both_end_at_the_same_loss(tmp_path, model):
  """The optimizers agree, whole batch and in micro-batches."""
  path = tmp_path / 'arrays.npz'
  network = networks.Network(model, batch=4, steps=1, goal=1.0, programs={})
  train_step.save_arrays(path, network, seed=0)
  with np.load(path) as file:
    arrays = dict(file)
  spec = {'model': model, 'threads': torch.get_num_threads()}
  parts = spec | {'micro_batches': 2}
  steps = [
    worker.our_step(spec, arrays),
    worker.our_step(parts, arrays),
    worker.torch_step(spec, arrays),
    worker.torch_step(parts | {'fused': True}, arrays),
    worker.torch_step(
      spec | {'style': 'cropped', 'channels_last': model is TINY}, arrays
    ),
  ]
  losses = np.array([[float(run()) for _ in range(3)] for run in steps])
  assert (np.diff(losses) < 0).all()
  np.testing.assert_allclose(losses[1:], np.tile(losses[0], (4, 1)), rtol=1e-4)


def test_a_tiny_benchmark_runs_from_end_to_end(capsys):
  """Processes, rounds, table and record; no time is asserted.

  A program that fails is left out, and costs only itself.
  """
  wrong = 'PyTorch, wrong'
  network = networks.Network(
    TINY,
    batch=4,
    steps=2,
    goal=0.75,
    programs={train_step.OURS: {}, wrong: {'model': {}}, train_step.EAGER: {}},
  )
  options = {'seed': 0, 'threads': 1, 'compiled': False}
  with train_step.start(network, **options) as workers:
    taken, peaks = train_step.measure(network, workers, rounds=2)
  told = capsys.readouterr().err
  for name in network.programs:
    start, wait = f'{name} starts', f'waits for {name} ...'
    assert told.count(start) == told.count(wait) == 1
    assert told.index(start) < told.index(wait)
  assert told.count('s since its start') == len(network.programs)
  assert f'left out: The process of {wrong!r} ended with status 1' in told
  assert {len(seconds) for seconds in taken.seconds.values()} == {2}
  lines, numbers = train_step.report('tiny', network, taken, peaks)
  assert numbers['not_timed'] == [wrong]
  text = '\n'.join(lines)
  assert f'| {train_step.OURS} |' in text and f'| {train_step.EAGER} |' in text
  assert numbers['best_torch'] == train_step.EAGER
  assert numbers['eager_ratio'] > 0 and min(peaks.values()) > 1e6
  with (
    pytest.raises(RuntimeError, match='took no first step within --patience'),
    train_step.start(network, **options, patience=0.1),
  ):
    pass


class TestSampling:
  """The loops of PyTorch draw what ours draw from the same noise."""

  @pytest.mark.parametrize('crop', [False, True])
  def test_a_loop_draws_our_sample(self, tmp_path, crop):
    path = str(tmp_path / 'arrays.npz')
    model, params, *_ = ours(TINY)
    sample.save_arrays(path, TINY, params, batch=2, seed=3)
    spec = {
      'model': TINY,
      'threads': 1,
      'crop': crop,
      'pixels': 5,
      'checked_rows': 7,
    }
    with np.load(path) as file:
      arrays = dict(file)
    assert 0 < arrays['x'].mean() < 1
    draw = worker.torch_sample(spec, arrays)
    assert draw() == 0  # different pixels
    assert draw() == pytest.approx(arrays['x'].mean())
    arrays['noise'] = -arrays['noise']
    assert worker.torch_sample(spec, arrays)() > 0

  @pytest.mark.parametrize('name', ['cached', 'gauss_seidel'])
  def test_ours(self, tmp_path, name):
    path = str(tmp_path / 'arrays.npz')
    sample.save_arrays(path, TINY, None, batch=2, seed=3)
    with np.load(path) as file:
      arrays = dict(file)
    draw = worker.our_sample({'model': TINY, 'draw': name}, arrays)
    assert draw() == pytest.approx(arrays['x'].mean())
    nats = worker.our_sample({'model': TINY, 'draw': 'likelihood'}, arrays)
    assert nats() < 0

  def test_goals_are_judged_by_the_rounds(self):
    what = sample.contest('gated_pixelcnn', 1)
    seconds = {name: np.full(3, 1.0) for name in what.programs}
    seconds['PyTorch, full pass'][:] = 400
    seconds['PyTorch, rows so far'][:] = 100
    rounds = timing.Rounds(seconds, seconds)
    first = dict.fromkeys(seconds, 0.0)
    lines, numbers = sample.report('t', what, rounds, first, 784)
    text = '\n'.join(lines)
    assert text.count('reached') == 2 and text.count('missed') == 1
    assert numbers['t: PyTorch, full pass / parallel_ar, cached'][0] == 400


@pytest.mark.parametrize('checkpointed', [False, True])
def test_the_worked_example_is_the_encoder_of_pytorch(checkpointed):
  """The same loss to 1e-5, and the same gradient, on the same weights."""
  config = {
    **networks.WORKED,
    'event': (11,),
    'num_values': 7,
    'features': 16,
    'heads': 4,
    'layers': 2,
  }
  _, params, x, want, grads = ours(config)
  module = torch_transformer.Transformer(11, 7, 16, 2, 4, checkpointed)
  torch_transformer.load(module, params)
  loss = torch_transformer.mean_nats(module, torch.from_numpy(x).long())
  loss.backward()
  assert abs(loss.item() - want) <= 1e-5 * abs(want)
  np.testing.assert_allclose(
    module.embed.weight.grad, grads['embed']['embedding'], rtol=2e-3, atol=2e-4
  )
  layer = module.encoder.layers[0].linear1.weight.grad
  np.testing.assert_allclose(
    layer.T, grads['block_0']['up']['kernel'], rtol=2e-3, atol=2e-4
  )


def test_wavenet_is_that_of_pytorch():
  config = {
    'name': 'wavenet',
    'event': (11,),
    'num_values': 7,
    'features': 6,
    'skip_features': 9,
    'layers': 3,
  }
  _, params, x, want, grads = ours(config)
  sizes = {k: v for k, v in config.items() if k not in ('name', 'event')}
  module = torch_wavenet.WaveNet(**sizes)
  torch_wavenet.load(module, params)
  loss = torch_wavenet.mean_nats(module, torch.from_numpy(x).long())
  loss.backward()
  assert abs(loss.item() - want) <= 1e-5 * abs(want)
  np.testing.assert_allclose(
    module.embed.weight.grad, grads['embed']['embedding'], rtol=2e-3, atol=2e-4
  )


@pytest.mark.parametrize('kind', [{}, {'dtype': 'bfloat16'}])
def test_the_networks_of_a_gpu_are_the_same_on_both_sides(tmp_path, kind):
  """Their programs, of tiny sizes on the CPU; nothing is compiled here."""
  tiny = {'event': (16,), 'num_values': 5, 'features': 8, 'skip_features': 4}
  network = networks.GPU_NETWORKS['wavenet']
  model = {**network.model, **tiny, 'layers': 2}
  path = tmp_path / 'arrays.npz'
  train_step.save_arrays(path, network._replace(model=model, batch=2), seed=0)
  with np.load(path) as file:
    arrays = dict(file)
  spec = {'model': model, 'threads': torch.get_num_threads()}
  mine = worker.our_step(spec | {'model': model | kind}, arrays)
  theirs = worker.torch_step(spec | {'bfloat16': bool(kind)}, arrays)
  losses = [float(mine()), float(theirs())]
  np.testing.assert_allclose(*losses, rtol=1e-2 if kind else 1e-5)
