"""Checkpoints: exact, refused for another model, skipped when broken."""

import json
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from parallel_ar.training import checkpoint, checkpoint_meta
from parallel_ar.training.state import TrainState

CONFIG = {'model': {'name': 'made', 'hidden': [3]}, 'train': {'steps': 5}}
EXTRA = {'seed': 0, 'selection': {'best_step': -1}}


def _state(step=0, seed=0, ema=True, width=3, optimizer=None):
  weights = np.random.RandomState(seed + step).randn(4, width)
  params = {'w': jnp.asarray(weights, jnp.float32), 'b': jnp.ones(width)}
  optimizer = optimizer or optax.adam(1e-3)
  opt_state = optimizer.init(params)
  average = jax.tree.map(lambda p: p / 2, params) if ema else None
  return TrainState(jnp.int32(step), params, average, opt_state)


@pytest.fixture
def saved(tmp_path):
  """A directory with checkpoints of steps 1, 2, 3; all are kept."""
  store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=3)
  for step in (1, 2, 3):
    store.save(step, _state(step), EXTRA | {'at': step})
  store.close()
  return tmp_path / 'c'


def _restore(directory, template=None, config=CONFIG):
  store = checkpoint.Checkpoints(directory, config, keep=3)
  try:
    return store.restore_latest(template or _state())
  finally:
    store.close()


def _readable(directory, template, step):
  """The state of `step`, or None where it is found to be broken."""
  store = checkpoint.Checkpoints(directory, CONFIG, read_only=True)
  items = {'params': template.params, 'opt_state': template.opt_state}
  items['ema'] = template.ema
  try:
    trees = store._read(step, items, store._meta(step))
    return TrainState(jnp.int32(step), **trees)
  except Exception:
    return None
  finally:
    store.close()


def _params_of(directory, template, step):
  store = checkpoint.Checkpoints(directory, CONFIG, read_only=True)
  try:
    for which in ('raw', 'ema'):
      params = store.restore_params(template.params, which, step)[0]
    return params
  finally:
    store.close()


def _same(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


def _data_files(directory):
  found = [p for p in directory.rglob('*') if p.is_file()]
  return sorted(p for p in found if p.parent.name == 'd')


def _assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  chex.assert_trees_all_equal(one, other)
  jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail(), one, other)


def _listing(directory):
  return sorted(p.name for p in directory.iterdir() if p.is_dir())


class TestRoundTrip:
  @pytest.mark.parametrize('ema', [True, False])
  @pytest.mark.parametrize('rule', [optax.adam(1e-3), optax.sgd(0.1)])
  def test_every_bit_comes_back(self, tmp_path, ema, rule):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    state = _state(7, ema=ema, optimizer=rule)
    store.save(7, state, EXTRA)
    shapes = jax.eval_shape(lambda: state)
    store.wait()
    restored, extra = store.restore_latest(shapes)
    store.close()
    _assert_same(restored, state)
    assert extra == EXTRA

  def test_nothing_saved_is_none(self, tmp_path):
    assert _restore(tmp_path / 'c') is None

  def test_donating_the_state_does_not_change_what_is_saved(self, tmp_path):
    grow = jax.jit(
      lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=0
    )
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    state = _state(0, width=4096)
    expected = jax.tree.map(np.array, state)
    store.save(0, state, EXTRA)
    for _ in range(20):
      state = grow(state)
    jax.block_until_ready(state)
    store.wait()
    restored, _ = store.restore_latest(state)
    store.close()
    _assert_same(restored, expected)

  def test_keeps_the_newest_and_the_best(self, tmp_path):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=2)
    store.best_step = 2
    for step in range(1, 6):
      store.save(step, _state(step), EXTRA)
    store.wait()
    assert store.steps() == [2, 4, 5]
    store.close()
    assert _listing(tmp_path / 'c') == ['2', '4', '5']

  def test_params_alone(self, saved):
    store = checkpoint.Checkpoints(saved, CONFIG, read_only=True)
    template = jax.eval_shape(lambda: _state().params)
    params, name, step = store.restore_params(template)
    assert (name, step) == ('ema', 3)
    _assert_same(params, _state(3).ema)
    params, name, step = store.restore_params(template, 'raw', 2)
    assert (name, step) == ('raw', 2)
    _assert_same(params, _state(2).params)
    assert store.latest_extra()['at'] == 3
    with pytest.raises(ValueError, match=r'step 9 .*\[1, 2, 3\]'):
      store.restore_params(template, 'raw', 9)
    store.close()

  def test_no_average_to_restore(self, tmp_path):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    store.save(1, _state(1, ema=False), EXTRA)
    store.wait()
    template = _state().params
    assert store.restore_params(template)[1:] == ('raw', 1)
    with pytest.raises(ValueError, match='ema_decay = 0'):
      store.restore_params(template, 'ema')
    store.close()


class TestNonFinite:
  @pytest.mark.parametrize('value', [np.nan, np.inf])
  @pytest.mark.parametrize('part', ['params', 'ema'])
  def test_is_never_saved(self, tmp_path, value, part):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    state = _state()
    broken = getattr(state, part) | {'b': jnp.array([1.0, value, 1.0])}
    with pytest.raises(checkpoint.NonFiniteState, match='step 4'):
      store.save(4, state._replace(**{part: broken}), EXTRA)
    store.close()
    assert _listing(tmp_path / 'c') == []


class TestBroken:
  def _break(self, directory, how):
    if how == 'empty':
      shutil.rmtree(directory)
      directory.mkdir()
    elif how == 'no meta':
      shutil.rmtree(directory / 'meta')
    elif how == 'cut meta':
      file = next(p for p in (directory / 'meta').iterdir() if p.is_file())
      file.write_text(file.read_text()[:40])
    elif how == 'no optimizer':
      shutil.rmtree(directory / 'opt_state')
    elif how == 'no file':
      for file in _data_files(directory / 'params'):
        file.unlink()
    elif how == 'cut data':
      for file in _data_files(directory / 'params'):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:  # a change of the description that is still JSON
      file = directory / 'meta' / 'metadata'
      old, new = how.split(' -> ')
      assert old in file.read_text()
      file.write_text(file.read_text().replace(old, new))

  @pytest.mark.parametrize(
    'how',
    [
      'empty',
      'no meta',
      'cut meta',
      'no optimizer',
      'no file',
      'cut data',
      '"seed": 0 -> "seed": 1',
      '"digest": -> "digesT":',
      '"checksums": -> "checksumS":',
      '"format": 2 -> "format": 3',
      '"format": 2 -> "format": 1',
    ],
  )
  def test_falls_back_and_can_save_that_step_again(self, saved, how):
    self._break(saved / '3', how)
    restored, extra = _restore(saved)
    _assert_same(restored, _state(2))
    assert extra['at'] == 2
    assert _listing(saved) == ['1', '2', 'corrupt-3-0']
    store = checkpoint.Checkpoints(saved, CONFIG, keep=3)
    store.save(3, _state(3), EXTRA)
    store.close()
    _assert_same(_restore(saved)[0], _state(3))

  def test_a_flipped_bit_is_seen_where_orbax_alone_restores_it(
    self, tmp_path, monkeypatch
  ):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    for step in (1, 2):
      store.save(step, _state(step, width=4096), EXTRA)
    store.close()
    files = _data_files(tmp_path / 'c' / '2' / 'params')
    random = np.random.RandomState(0)
    template, silent = _state(width=4096), 0
    for turn in range(24):
      file = files[turn % len(files)]
      whole = file.read_bytes()
      broken = bytearray(whole)
      broken[random.randint(len(whole))] ^= 1 << random.randint(8)
      file.write_bytes(broken)
      with monkeypatch.context() as patch:
        patch.setattr(checkpoint_meta, 'compare', lambda *_: None)
        unchecked = _readable(tmp_path / 'c', template, 2)
      if unchecked is not None and not _same(unchecked, _state(2, width=4096)):
        silent += 1
        assert _readable(tmp_path / 'c', template, 2) is None
        with pytest.raises(checkpoint.CheckpointError, match='checksums'):
          _params_of(tmp_path / 'c', template, 2)
      file.write_bytes(whole)
    assert silent, 'no flip was restored in silence: the test tests nothing'
    _assert_same(_readable(tmp_path / 'c', template, 2), _state(2, width=4096))

  def test_half_written_step_is_not_seen(self, saved):
    (saved / '3').rename(saved / '3.orbax-checkpoint-tmp')
    _assert_same(_restore(saved)[0], _state(2))

  def test_none_readable_raises_and_touches_nothing(self, saved):
    for step in ('1', '2', '3'):
      self._break(saved / step, 'empty')
    before = sorted(saved.rglob('*'))
    for _ in range(2):
      with pytest.raises(checkpoint.CheckpointError, match='none can be read'):
        _restore(saved)
    assert sorted(saved.rglob('*')) == before

  def test_reading_changes_nothing(self, saved):
    self._break(saved / '3', 'cut meta')
    (saved / '4.orbax-checkpoint-tmp').mkdir()
    before = sorted(saved.rglob('*'))
    store = checkpoint.Checkpoints(saved, CONFIG, read_only=True)
    assert store.restore_params(_state().params)[2] == 2
    store.close()
    assert sorted(saved.rglob('*')) == before

  def test_full_disk(self, tmp_path):
    """A limit on the size of files stands for the disk: writes fail alike."""
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    store.save(1, _state(1, width=30_000), EXTRA)
    store.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
      with pytest.raises(checkpoint.CheckpointError, match='full disk'):
        store.save(2, _state(2, width=30_000), EXTRA)
        store.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _listing(tmp_path / 'c') == ['1']
    store.save(2, _state(2, width=30_000), EXTRA)
    store.close()
    assert _listing(tmp_path / 'c') == ['1', '2']
    template = _state(width=30_000)
    _assert_same(_restore(tmp_path / 'c', template)[0], _state(2, width=30_000))

  def test_lost_save_is_noticed(self, tmp_path):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
    store.save(1, _state(1), EXTRA)
    store.wait()
    shutil.rmtree(tmp_path / 'c' / '1')
    with pytest.raises(checkpoint.CheckpointError, match='did not reach'):
      store.close()


class TestSharded:
  """fsdp 8 -> tensor 4 x data 2 -> one device, with the same bits."""

  def _template(self, shape, axes, weights, bias):
    if shape is None:
      return _state(width=16)
    mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))
    by_rank = {2: weights, 1: bias, 0: ()}

    def place(leaf):
      spec = PartitionSpec(*by_rank[leaf.ndim])
      return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
      )

    return jax.tree.map(place, _state(width=16))

  def test_every_mesh_restores_what_another_saved(self, tmp_path):
    meshes = [
      ((8,), ('fsdp',), (None, 'fsdp'), ('fsdp',)),
      ((4, 2), ('tensor', 'data'), ('data', 'tensor'), ('tensor',)),
      (None, (), (), ()),
      ((2, 4), ('fsdp', 'sequence'), ('sequence', None), ()),
    ]
    shards = [(4, 2), (2, 4), (4, 16), (1, 16)]
    state, sums = _state(1, width=16), []
    for at, mesh in enumerate(meshes):
      template = self._template(*mesh)
      if at == 0:
        places = jax.tree.map(lambda leaf: leaf.sharding, template)
        state = jax.device_put(state, places)
      else:
        state, _ = _restore(tmp_path / 'c', template)
      chex.assert_trees_all_equal(
        jax.device_get(state._replace(step=0)),
        jax.device_get(_state(1, width=16)._replace(step=0)),
      )
      shard = state.params['w'].addressable_shards[0]
      assert shard.data.shape == shards[at]
      assert state.opt_state[0].mu['w'].sharding == state.params['w'].sharding
      if mesh[0]:
        assert set(state.step.sharding.device_set) == set(jax.devices())
      store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=9)
      store.save(2 + at, state, EXTRA)
      store.close()
      meta = (tmp_path / 'c' / str(2 + at) / 'meta' / 'metadata').read_text()
      sums.append(json.loads(meta)['checksums'])
    assert sums[0] == sums[1] == sums[2] == sums[3]
    assert len(sums[0]['opt_state']) == 5
    params = _params_of(tmp_path / 'c', _state(width=16), 2)
    assert len(params['w'].sharding.device_set) == 1


class TestOtherRun:
  def test_other_model_section(self, saved):
    other = CONFIG | {'model': {'name': 'made', 'hidden': [5], 'direct': True}}
    with pytest.raises(checkpoint.OtherRunError) as error:
      _restore(saved, _state(width=5), other)
    assert 'model.hidden: [3] -> [5]' in str(error.value)
    assert 'model.direct: absent -> true' in str(error.value)
    assert _listing(saved) == ['1', '2', '3']

  def test_same_section_but_other_shapes(self, saved):
    with pytest.raises(
      checkpoint.OtherRunError, match='another model'
    ) as error:
      _restore(saved, _state(width=5))
    assert 'float32[4, 3]' in str(error.value)
    assert _listing(saved) == ['1', '2', '3']

  def test_other_optimizer(self, saved):
    sgd = optax.sgd(0.1, momentum=0.9)
    with pytest.raises(checkpoint.OtherRunError, match='optimizer'):
      _restore(saved, _state(optimizer=sgd))
    assert _listing(saved) == ['1', '2', '3']

  def test_average_can_be_dropped_but_not_invented(self, saved, tmp_path):
    _assert_same(_restore(saved, _state(ema=False))[0], _state(3, ema=False))
    store = checkpoint.Checkpoints(tmp_path / 'plain', CONFIG)
    store.save(1, _state(1, ema=False), EXTRA)
    store.close()
    with pytest.raises(checkpoint.OtherRunError, match='moving average'):
      _restore(tmp_path / 'plain', _state(ema=True))

  def test_other_training_length_is_no_other_run(self, saved):
    longer = CONFIG | {'train': {'steps': 50}}
    _assert_same(_restore(saved, config=longer)[0], _state(3))

  def test_fingerprint_depends_on_model_and_shapes(self):
    params = _state().params
    one = checkpoint_meta.fingerprint(CONFIG, params)
    assert one == checkpoint_meta.fingerprint(CONFIG | {'train': {}}, params)
    assert one != checkpoint_meta.fingerprint(CONFIG, _state(width=4).params)
    assert one != checkpoint_meta.fingerprint(CONFIG | {'model': {}}, params)
