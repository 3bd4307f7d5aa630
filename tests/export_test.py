"""A model in a file gives the numbers of the model, in a fresh process."""

import io
import json
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from parallel_ar import export, likelihood, models, order, samplers
from parallel_ar.decode import recompute_decode
from parallel_ar.samplers import path
from parallel_ar.testing import case as cases

MODELS = {
  'made': lambda: models.made(event=(3, 2), hidden=(24,), direct=True),
  'transformer_label': lambda: models.transformer(
    event=(6,), num_values=3, features=8, heads=2, layers=1, num_classes=2
  ),
  'multiscale': lambda: models.multiscale(
    event=(3, 3, 1), features=8, layers=1, head_features=8
  ),
}
# Reads the file and the inputs, and imports nothing of this library but the
# reader's own module would; here not even that.
FRESH = """
import io, json, sys, zipfile
import jax, numpy as np
from jax import export
file = zipfile.ZipFile(sys.argv[1])
arrays = np.load(io.BytesIO(file.read('params.npz')))
params = [arrays[n] for n in sorted(arrays.files)]
given = np.load(sys.argv[2])
context = given['context'] if 'context' in given.files else None
call = lambda n: jax.jit(export.deserialize(
  bytearray(file.read(n + '.stablehlo'))).call)
nats = call('likelihood')(params, given['x'], context)
picks, _ = call('step')(params, given['x'], given['words'], context)
np.savez(sys.argv[3], nats=nats, picks=picks)
assert not any(m.startswith(('flax', 'parallel_ar')) for m in sys.modules)
"""


@pytest.fixture(scope='module', params=MODELS)
def saved(request, tmp_path_factory):
  """A case, and the file of its model."""
  case = cases.make_case(MODELS[request.param](), batch=5)
  path = tmp_path_factory.mktemp('saved') / 'm.zip'
  about = export.save(path, case.model, case.params)
  assert about['platforms'] == ['cpu', 'cuda', 'tpu']
  return case, path


def test_a_fresh_process(saved, tmp_path):
  case, file = saved
  model = case.model
  given = {'x': case.x, 'words': jax.random.key_data(case.keys)}
  if case.context is not None:
    given['context'] = case.context
  np.savez(tmp_path / 'given.npz', **given)
  paths = [str(file), *(f'{tmp_path}/{n}.npz' for n in ('given', 'out'))]
  subprocess.run([sys.executable, '-c', FRESH, *paths], check=True)
  out = np.load(paths[-1])
  bundle = export.load(paths[0])
  log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
  nats = log_prob(model, case.params, case.x, case.context)
  np.testing.assert_array_equal(out['nats'], nats)
  picks, _ = bundle.programs['step'](
    bundle.params, case.x, given['words'], case.context
  )
  np.testing.assert_array_equal(out['picks'], picks)


def test_samples(saved):
  """By passes, and slot by slot where there is a cache; any batch."""
  case, file = saved
  model, bundle = case.model, export.load(file)
  want = samplers.ancestral(model)(case.params, case.keys, case.context)
  x, nats = export.sample(bundle, case.keys, case.context)
  np.testing.assert_array_equal(x, want.x)
  np.testing.assert_allclose(nats, want.log_prob, rtol=1e-5)
  two = jax.tree.map(lambda c: c[:2], (case.keys, case.context))
  np.testing.assert_array_equal(export.sample(bundle, *two)[0], want.x[:2])
  assert path.choose(model).decode is not recompute_decode(model)
  words = jax.random.key_data(case.keys)
  cache = bundle.programs['begin'](bundle.params, words, case.context)
  value = np.zeros((5, *model.event.shape[model.rank.ndim :]), np.int32)
  values = []
  for k in range(model.num_positions):
    value, cache = bundle.programs['extend'](
      bundle.params, cache, np.int32(k), value, words
    )
    values.append(np.asarray(value))
  slots = order.slots(model.rank)
  drawn = np.stack(values, 1)[:, np.argsort(slots)]
  np.testing.assert_array_equal(drawn.reshape(want.x.shape), want.x)


def test_parameters_in_bfloat16(tmp_path):
  model = models.made(event=(3,), hidden=(4,))
  params = jax.tree.map(
    lambda p: p.astype('bfloat16'), model.init(jax.random.key(0))
  )
  export.save(tmp_path / 'm.zip', model, params)
  for leaf, want in zip(
    export.load(tmp_path / 'm.zip').params,
    jax.tree.leaves(params),
    strict=True,
  ):
    assert leaf.dtype == want.dtype
    np.testing.assert_array_equal(leaf, want)


def test_what_is_no_such_file_is_refused(tmp_path):
  """Each way in which a member can be wrong ends in one paragraph."""
  path, bad = tmp_path / 'm.zip', tmp_path / 'bad.zip'
  model = models.made(event=(3,), hidden=(4,))
  about = export.save(path, model, model.init(jax.random.key(0)))
  with zipfile.ZipFile(path) as file:
    held = {name: file.read(name) for name in file.namelist()}
  other = io.BytesIO()
  np.savez(other, **{'00000': np.array([{}], object)})
  cut = held['step.stablehlo']
  for name, content in [
    ('about.json', b'{'),
    ('about.json', b'[]'),
    ('about.json', b'[' * 100_000),
    ('about.json', json.dumps(about | {'format': 9}).encode()),
    ('about.json', json.dumps(about | {'programs': ['step']}).encode()),
    ('about.json', json.dumps(about | {'event': ['x']}).encode()),
    ('about.json', json.dumps(about | {'dtype': 'x'}).encode()),
    ('step.stablehlo', b''),
    ('step.stablehlo', cut[: len(cut) // 2]),
    ('likelihood.stablehlo', bytes(500)),
    ('params.npz', b'junk'),
    ('params.npz', other.getvalue()),
  ]:
    with zipfile.ZipFile(bad, 'w') as file:
      for member, whole in (held | {name: content}).items():
        file.writestr(member, whole)
    with pytest.raises(ValueError, match=r'bad\.zip is not a file') as caught:
      export.load(bad)
    assert 'pickle' not in str(caught.value)
  bad.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(ValueError, match=r'bad\.zip is not a file'):
    export.load(bad)
