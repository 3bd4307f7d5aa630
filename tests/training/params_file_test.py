"""One plain file of parameters: whole, checked, and enough to run the model."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.training import params_file, trained

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'format_1'
PARAMS = {
  'a': {'w': jnp.arange(6.0).reshape(2, 3)},
  'b': jnp.ones(2, 'bfloat16'),
}
CONFIG = {'model': {'name': 'none'}}


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'p.npz'
  params_file.save(path, PARAMS, CONFIG, step=3, which='ema')
  return path


def test_anyone_can_read_it(file):
  with np.load(file, allow_pickle=False) as arrays:
    assert sorted(arrays.files) == ['__meta__', 'a/w', 'b']
    np.testing.assert_array_equal(arrays['a/w'], PARAMS['a']['w'])
    assert arrays['b'].dtype == np.float32
    meta = json.loads(arrays['__meta__'].tobytes())
  assert (meta['step'], meta['params'], meta['config']) == (3, 'ema', CONFIG)
  assert meta == params_file.read_meta(file)


def test_comes_back_bit_for_bit(file):
  params, meta = params_file.load(file, jax.eval_shape(lambda: PARAMS))
  assert meta['step'] == 3
  assert params['b'].dtype == jnp.bfloat16
  for one, other in zip(
    jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_refusals(file, tmp_path):
  with pytest.raises(ValueError, match='ends in .npz'):
    params_file.save(tmp_path / 'p', PARAMS, CONFIG, step=3, which='ema')
  with pytest.raises(ValueError, match=re.escape('float32[2, 3]')):
    params_file.load(file, PARAMS | {'a': {'w': jnp.zeros((3, 3))}})
  with pytest.raises(ValueError, match='export_params'):
    np.savez(tmp_path / 'other.npz', a=np.ones(3))
    params_file.read_meta(tmp_path / 'other.npz')
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match='cannot be read'):
    params_file.load(file, PARAMS)


def test_a_changed_array_is_seen(file):
  with np.load(file) as arrays:
    changed = dict(arrays)
  changed['a/w'] = changed['a/w'] + np.float32(1e-7) * (np.arange(3) == 1)
  changed['a/w'] = changed['a/w'].astype(np.float32)
  np.savez(file, **changed)
  with pytest.raises(ValueError, match='checksum'):
    params_file.load(file, PARAMS)


def test_a_run_from_its_file(tmp_path):
  run = trained.load(GOLDEN)
  meta = json.loads((GOLDEN / 'config.json').read_text())
  path = tmp_path / 'run.npz'
  params_file.save(path, run.params, meta, step=run.step, which='ema')
  again = trained.load(path)
  assert again.params_name == run.params_name == 'ema of step 4'
  assert again.config.to_dict() == run.config.to_dict()
  for one, other in zip(
    jax.tree.leaves(again.params), jax.tree.leaves(run.params), strict=True
  ):
    np.testing.assert_array_equal(one, other)
  for wrong in ({'which': 'raw'}, {'step': 3}):
    with pytest.raises(ValueError, match='ema parameters of step 4 only'):
      trained.load(path, **wrong)
