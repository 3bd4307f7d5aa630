"""Kernels of platforms against our loops, and lowered for where they run.

Neither platform is here. The splash kernel is interpreted, and cuDNN's is
compared through the same call with XLA's own implementation.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_lib

import parallel_ar as par
from parallel_ar import decode, target
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import topology
from parallel_ar.layers import attention, kernels
from parallel_ar.layers.sharded import Reach

REACHES = {
  'causal': Reach(),
  'local': Reach(window=40),
  'grouped': Reach(block=5),
  'unequal': Reach(block=np.repeat(np.arange(5), [1, 10, 50, 40, 49])),
  'strided': Reach(stride=7),
}
LENGTH, HEADS, SIZE = 150, 2, 32


def _qkv(dtype=np.float32, length=LENGTH):
  keys = jax.random.split(jax.random.key(0), 3)
  shape = length, HEADS, SIZE
  return tuple(jax.random.normal(key, shape, dtype) for key in keys)


@functools.cache
def _ours(name):
  """Values and gradients of the loops."""
  q, k, v = _qkv()
  return jax.value_and_grad(
    lambda q, k, v: jnp.sin(attention.attend(q, k, v, REACHES[name])).sum(),
    (0, 1, 2),
  )(q, k, v)


@pytest.mark.parametrize('name', REACHES)
@pytest.mark.parametrize('kernel', ['splash', 'cudnn'])
def test_equal_to_the_loops_to_rounding(kernel, name, monkeypatch):
  monkeypatch.setattr(kernels, '_TILES', (128,))  # 2 x 2, one left out
  reach = REACHES[name]
  run = functools.partial(kernels.splash, reach=reach, interpret=True)
  if kernel == 'cudnn':
    run = functools.partial(kernels._dot_product, 'xla', reach)
  loss = lambda *qkv: jnp.sin(run(*qkv)).sum()
  want, ours = _ours(name)
  if kernel == 'splash' and name not in ('causal', 'unequal'):
    np.testing.assert_allclose(loss(*_qkv()), want, rtol=1e-4)
    return  # its gradient is of the same tiles, and slow to interpret
  value, slopes = jax.value_and_grad(loss, (0, 1, 2))(*_qkv())
  np.testing.assert_allclose(value, want, rtol=1e-4)
  for mine, other in zip(ours, slopes, strict=True):
    np.testing.assert_allclose(other, mine, atol=2e-5)


@pytest.mark.parametrize('name', REACHES)
def test_what_is_read_is_what_the_loops_read(name):
  q, k, _ = _qkv()
  v = jnp.repeat(jnp.eye(LENGTH)[:, None], HEADS, 1)  # gives the weights
  weights = attention.attend(q, k, v, REACHES[name])[:, 0]
  assert ((weights > 0) == kernels.reads(REACHES[name], LENGTH)).all()


class TestChoice:
  def test_of_each_platform(self, monkeypatch):
    q = _qkv(jnp.bfloat16, 256)[0]
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    want = {'cpu': None, 'tpu': kernels.splash, 'cuda': kernels.cudnn}
    for platform, kernel in want.items():
      with target.on(platform):
        assert kernels.choose('auto', q, Reach()) is kernel
        assert kernels.choose('loops', q, Reach()) is None
        assert kernels.choose('auto', q[:255], Reach()) is None
    with target.on('cuda'):  # what cuDNN does not take
      assert kernels.choose('auto', q.astype(jnp.float32), Reach()) is None
      assert kernels.choose('auto', q[..., :20], Reach()) is None
    with target.on('tpu'):  # a mask of 2^30 entries
      long = jax.ShapeDtypeStruct((32768, 1, 64), jnp.bfloat16)
      assert kernels.choose('auto', long, Reach(block=2)) is None
      assert kernels.choose('auto', long, Reach(window=9)) is kernels.splash

  def test_a_wrong_name_is_refused(self):
    with pytest.raises(ValueError, match='attention_kernel must be one of'):
      par.models.transformer(event=(4,), num_values=2, attention_kernel='fast')


@pytest.fixture(scope='module')
def model():
  return par.models.transformer(
    event=(256,),
    num_values=3,
    features=64,
    layers=1,
    heads=2,
    attention_kernel='auto',
    dtype=jnp.bfloat16,
  )


def _loss(model):
  return lambda params, x: par.log_prob(model, params, x).sum()


def _lowered(model, platform):
  params = jax.eval_shape(model.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((2, *model.event.shape), np.int32)
  with target.on(platform):
    step = jax.jit(jax.grad(_loss(model)))
    return step.trace(params, x).lower(lowering_platforms=(platform,)).as_text()


def test_lowered_for_a_tpu(model):
  assert 'tpu_custom_call' in _lowered(model, 'tpu')


def test_lowered_for_an_nvidia_gpu(model, monkeypatch):
  monkeypatch.setattr(kernels, '_takes_cudnn', lambda q: True)
  monkeypatch.setattr(cudnn_lib, 'check_cudnn_version', lambda: 91300)
  text = _lowered(model, 'cuda')
  assert '__cudnn$fmhaSoftmax' in text
  assert '__cudnn$fmhaSoftmaxBackward' in text


def test_audits_and_derived_paths_read_the_loops(model):
  with target.on('tpu'):
    plan = decode.derive.derived(model)
    assert plan is not None and not plan.schedule.full


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu (pip)'
)
@pytest.mark.parametrize('mesh', ['data=8', 'data=2,fsdp=2,tensor=2'])
def test_compiled_by_xla_tpu_for_a_mesh(model, mesh):
  chips = topology.devices('v5e:2x4')
  made = mesh_lib.make(mesh_lib.fill(mesh_lib.parse(mesh), 8), chips)
  whole = mesh_lib.replicated(made)
  params = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole),
    jax.eval_shape(model.init, jax.random.key(0)),
  )
  spread = mesh_lib.batch_sharding(made)
  x = jax.ShapeDtypeStruct((16, 256), np.int32, sharding=spread)
  with jax.set_mesh(made), target.on('tpu'):
    step = jax.jit(jax.grad(_loss(model)))
    text = step.lower(params, x).compile().as_text()
  assert 'splash_mha' in text
