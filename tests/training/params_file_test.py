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


# What a stranger's description may say, and what is answered.
HOSTILE = {
  'no config': ({'config': None}, 'no config'),
  'a config of words': ({'config': 'x'}, 'no config'),
  'no model': ({'config': {'data': {}}}, 'no section model'),
  'no checksums': ({'checksums': {}}, 'checksum'),
  'no layout': ({'layout': {}}, 'not those that its description names'),
  'a step of words': ({'step': 'x'}, 'no step'),
  'wide': ({'hidden': [10**9]}, '1000000000 units'),
  'long': ({'event': [30000, 30000, 1]}, '900000000 slots'),
  'deep': ({'layers': 10**5}, '100000 layers'),
  'many': ({'hidden': [1] * 5000}, '5000 members'),
  'another name': ({'name': 'os.system'}, 'Unknown model'),
  'a field of another type': ({'hidden': 'x'}, 'cannot be built'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_description_of_a_stranger(tmp_path, name):
  changes, match = HOSTILE[name]
  run = trained.load(GOLDEN)
  config = json.loads((GOLDEN / 'config.json').read_text())
  path = tmp_path / 'run.npz'
  params_file.save(path, run.params, config, step=4, which='ema')
  with np.load(path) as arrays:
    held = dict(arrays)
  meta = json.loads(held['__meta__'].tobytes())
  where = meta if changes.keys() <= meta.keys() else meta['config']['model']
  where.update(changes)
  held['__meta__'] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
  np.savez(path, **held)
  with pytest.raises(ValueError, match=match) as caught:
    trained.load(path)
  assert str(path) in str(caught.value)


@pytest.mark.parametrize('meta', ['[1]', '[' * 100_000, '{'])
def test_a_description_that_is_none(tmp_path, meta):
  path = tmp_path / 'run.npz'
  np.savez(path, __meta__=np.frombuffer(meta.encode(), np.uint8))
  with pytest.raises(ValueError, match=r'run\.npz .* export_params'):
    trained.load(path)


def test_an_absent_array(file):
  with np.load(file) as arrays:
    held = dict(arrays)
  del held['b']
  np.savez(file, **held)
  with pytest.raises(ValueError, match='not those that its description names'):
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
