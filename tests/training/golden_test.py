"""Checkpoints that older versions wrote can still be read.

Each tests/golden/format_* is a run as it was written in its day: MADE
of 3 units on a lattice, 4 steps, with an average; expected.npz has its leaves.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from parallel_ar.training import (
  checkpoint,
  checkpoint_meta,
  configuration,
  identity,
  loop,
  trained,
)
from parallel_ar.training import optimizer as optimizer_lib
from parallel_ar.training import state as state_lib

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
FORMATS = sorted(path.name for path in GOLDEN.glob('format_*'))


def _expected(name):
  with np.load(GOLDEN / name / 'expected.npz') as file:
    return {key: file[key] for key in file.files}


def _check(tree, expected, prefix):
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  assert leaves
  for path, leaf in leaves:
    want = expected[prefix + jax.tree_util.keystr(path)]
    assert np.asarray(leaf).dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(leaf), want)


def _config(name):
  config = json.loads((GOLDEN / name / 'config.json').read_text())
  return configuration.from_json(config)


def test_every_format_has_a_golden_run():
  assert FORMATS == [f'format_{n + 1}' for n in range(checkpoint_meta.FORMAT)]


@pytest.mark.parametrize('name', FORMATS)
def test_parameters_alone(name):
  run = trained.load(GOLDEN / name)
  assert (run.step, run.params_name) == (4, 'ema of step 4')
  _check(run.params, _expected(name), '.ema')
  raw = trained.load(GOLDEN / name, which='raw')
  _check(raw.params, _expected(name), '.params')


@pytest.mark.parametrize('name', FORMATS)
def test_the_whole_state(name, tmp_path):
  shutil.copytree(GOLDEN / name, tmp_path / 'run')
  config = _config(name)
  model = trained.load(GOLDEN / name).models[0]
  optimizer = optimizer_lib.make(config.optimizer, steps=config.train.steps)
  template = jax.eval_shape(
    lambda key: state_lib.create(model, optimizer, key, ema=True),
    jax.random.key(0),
  )
  store = checkpoint.Checkpoints(
    tmp_path / 'run' / 'checkpoints', configuration.to_json(config)
  )
  state, extra = store.restore_latest(template)
  store.close()
  _check(state, _expected(name), '')
  assert extra['selection']['evaluated'] == 4


@pytest.mark.parametrize('name', FORMATS)
def test_the_run_goes_on(name, tmp_path):
  """A new field of the config is no new run."""
  shutil.copytree(GOLDEN / name, tmp_path / 'run')
  config = configuration.default_config()
  config.unlock()
  config.update(_config(name))
  config.mesh.data = 1
  config.train.update(steps=6, eval_every=0)
  only = r'other settings: train\.steps: 4 -> 6 \('  # its cosine is longer
  with pytest.raises(identity.OtherRun, match=only):
    loop.train(config, tmp_path / 'run', progress=False)
  summary = loop.train(
    config, tmp_path / 'run', progress=False, allow_changes=True
  )
  assert int(summary.state.step) == 6
  told = identity.history(identity.read(tmp_path / 'run'), 6)
  assert 'at step 4: train.steps 4 -> 6' in told
