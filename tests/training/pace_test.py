"""What the loop waits for, what it fetches, and what it says of its time."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.data import pipeline
from parallel_ar.data.dataset import Dataset
from parallel_ar.distributed import hardware
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.training import loop, metrics, outcome, pace
from tests.training.loop_test import (  # noqa: F401
  _config,
  _tiny_models,
  _train,
)


@pytest.fixture
def make():
  made = []

  def of(load, stop=100):
    made.append(pace.Pace(load, stop, tokens=6))
    return made[-1]

  yield of
  for one in made:
    one.close()


def _until(condition):
  end = time.monotonic() + 10
  while not condition() and time.monotonic() < end:
    time.sleep(0.001)
  assert condition()


def _work(seconds):
  end = time.thread_time() + seconds
  while time.thread_time() < end:
    pass


class TestBatches:
  def test_two_are_read_ahead_each_once_and_none_beyond_the_end(self, make):
    asked = []
    steps = make(lambda i: asked.append(i) or 10 * i, stop=5)
    assert steps.batch(0) == 0
    _until(lambda: asked == [0, 1, 2])
    assert steps.batch(0) == 0 and steps.batch(3) == 30
    _until(lambda: asked == [0, 1, 2, 3, 4])
    # The step after the last gives the loss of the state that was saved.
    assert steps.batch(5) == 50 and asked == [0, 1, 2, 3, 4, 5]

  def test_they_are_read_by_a_thread_under_the_mesh(self, make):
    def load(index):
      return threading.current_thread().name, jax.sharding.get_mesh()

    with jax.set_mesh(mesh_lib.make({'data': 8})) as mesh:
      mesh = jax.sharding.get_mesh()
      steps = make(load)
    name, under = steps.batch(0)
    assert name.startswith('batches') and under == mesh

  def test_what_fails_there_fails_at_its_step(self, make):
    def load(index):
      if index == 2:
        raise OSError('the disk is gone')
      return index

    steps = make(load)
    assert [steps.batch(i) for i in (0, 1)] == [0, 1]
    with pytest.raises(OSError, match='the disk is gone'):
      steps.batch(2)


class TestInFlight:
  @pytest.mark.parametrize(
    ('platform', 'expected'),
    [
      ('cpu', [[], [], [2], [2], [4], [4], [6]]),
      ('gpu', [[], [], [1], [2], [3], [4], [5]]),
    ],
  )
  def test_a_cpu_is_waited_for_every_second_step(
    self, make, monkeypatch, platform, expected
  ):
    waited = []
    monkeypatch.setattr(jax, 'default_backend', lambda: platform)

    class Number:
      def __init__(self, step):
        self.step = step

      def block_until_ready(self):
        waited.append(self.step)

    steps = make(int)
    found = []
    for at in range(1, 8):
      steps.dispatched(at, {'loss_nats': Number(at)}, None)
      found.append(waited[-1:])
    assert found == expected

  def test_numbers_are_fetched_where_they_are_wanted(
    self, tmp_path, monkeypatch
  ):
    fetched, real = [], pace.Pace.fetch

    def fetch(self):
      fetched.append(self.pending[0])
      return real(self)

    monkeypatch.setattr(pace.Pace, 'fetch', fetch)
    config = _config(steps=20, log_every=8, checkpoint_every=5, eval_every=0)
    config.train.keep_best = False
    _train(config, tmp_path)
    # The first, the logged ones, those saved and those after: 5 | 6 ...
    assert fetched == [1, 5, 6, 8, 10, 11, 15, 16, 20]
    said = metrics.read(tmp_path / 'metrics.jsonl')
    assert [r['step'] for r in said] == [8, 16, 20]


class TestTimes:
  def test_waiting_is_not_the_hosts(self, make):
    steps = make(lambda index: time.sleep(0.05) or _work(0.03) or index, 1)
    steps.start(0, flops=3.0)
    steps.batch(0)
    with steps.away():
      _work(0.05)
    time.sleep(0.05)  # as where other threads have the cores
    _work(0.02)
    found = steps.rates(2, 4.0)
    assert 0.01 <= found['host_seconds_per_step'] < 0.02
    assert 0.015 <= found['read_seconds_per_step'] < 0.025
    assert found['data_wait_seconds'] >= 0.04
    assert found['tokens_per_second'] == 24.0
    assert found['flops_per_second'] == 12.0
    assert np.isnan(found['share_of_peak'])  # of a CPU
    again = steps.rates(2, 4.0)
    assert again['data_wait_seconds'] == 0
    assert np.isnan(again['host_seconds_per_step'])
    assert np.isnan(again['read_seconds_per_step'])

  @pytest.mark.parametrize(
    ('kind', 'name'),
    [
      ('TPU v5 lite', 'v5e'),
      ('TPU v5', 'v5p'),
      ('TPU v6 lite', 'v6e'),
      ('NVIDIA H100 80GB HBM3', 'h100'),
      ('NVIDIA A100-SXM4-80GB', 'a100'),
      ('NVIDIA H100 PCIe', None),
    ],
  )
  def test_the_peak_of_what_jax_names(self, kind, name):
    class Device:
      device_kind = kind

    want = name and 2 * hardware.TABLE[name].flops
    assert hardware.peak([Device(), Device()]) == want


def test_the_first_bad_step_is_remembered():
  look, seen = jax.jit(outcome.look), outcome.nothing_seen()
  losses = [1.0, np.inf, 2.0, np.nan]
  for step, loss in enumerate(losses, 1):
    values = {'loss_nats': jnp.float32(loss), 'grad_norm': jnp.float32(3.0)}
    seen = look(seen, jnp.int32(step), values)
    assert int(seen.step) == (2 if step > 1 else 0)
  values = outcome.of_first_bad(seen, 4)
  assert values['loss_nats'] == np.inf and values['grad_norm'] == 3.0
  assert outcome.not_finite(values) == 'loss_nats = inf, grad_norm = 3.0'


def test_one_bad_step_between_two_records_ends_the_run(tmp_path):
  finite = loop.step.make_train_step

  def poisoned(*args, **options):
    train_step = finite(*args, **options)

    def step(state, batch):
      state, values = train_step(state, batch)
      bad = state.step == 3
      values['grad_norm'] = jnp.where(bad, np.nan, values['grad_norm'])
      return state, values

    return step

  config = _config(log_every=50, checkpoint_every=0, eval_every=0)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop.step, 'make_train_step', poisoned)
    with pytest.raises(loop.NonFiniteLoss, match=r'Step 3: .*grad_norm = nan'):
      _train(config, tmp_path)


@pytest.mark.parametrize(
  ('values', 'kind'), [(2, np.uint8), (256, np.uint8), (257, np.uint16)]
)
def test_batches_go_up_in_the_narrowest_integers(values, kind):
  x = np.arange(values, dtype=np.int32)[:, None][-6:]
  source = Dataset('a', 'train', x, values)
  narrow = pipeline.batches(source, len(x), narrow=True)[3]['x']
  wide = pipeline.batches(source, len(x))[3]['x']
  assert narrow.dtype == kind and wide.dtype == np.int32
  np.testing.assert_array_equal(narrow, wide)
  assert pipeline.dtype(70_000) == np.int32
  padded = pipeline.Padded(source, 4, narrow=True)[1]['x']
  assert padded.dtype == kind
  np.testing.assert_array_equal(padded, x[[min(4, len(x) - 1)] * 1 + [-1] * 3])
