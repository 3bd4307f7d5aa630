"""The planner's parts against XLA, and its predictions on eight devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_made
from parallel_ar import partition
from parallel_ar.analysis import collectives, complexity, plan, programs
from parallel_ar.distributed import hardware
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.training import configuration

TEXT = """HloModule jit_f, num_partitions=8

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %c = f32[4,8]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %w = (s32[], f32[4,8]) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %r = (f32[16]{0}, bf16[8]{0}) all-reduce(%a, %b), replica_groups=[2,4]<=[8]
  %s = f32[2]{0} all-reduce(%a), replica_groups={}, to_apply=%add
  %m = f32[2]{0} all-reduce(%a), replica_groups=mesh['x'=2,'y'=3,'z'=4], \
device_ids=([2,4]T(1,0)) {'x','y'}, to_apply=%add
  %n = f32[2]{0} all-reduce(%a), replica_groups=mesh['x'=8] {'x':(1)2}
  %g = f32[64]{0} all-gather(%a), replica_groups={{0,1},{2,3}}, dimensions={0}
}
"""


ON_A_TPU = """HloModule jit_f, num_partitions=8

%test (p: (s32[], f32[8])) -> pred[] {
  %c = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %c), direction=LT
}

%begins (a: f32[8]) -> f32[64] {
  %g = f32[64]{0:T(128)} all-gather(%a), channel_id=7, replica_groups=[1,8]<=[8]
}

%ends (a: f32[8]) -> f32[64] {
  %h = f32[64]{0:T(128)} all-gather(%a), channel_id=7, replica_groups=[1,8]<=[8]
}

%all-reduce-scatter (a: f32[64]) -> f32[8] {
  %s = f32[64]{0:T(128)} all-reduce(%a), channel_id=7, replica_groups=[1,8]<=[8]
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = f32[8]{0:T(128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
  %f = f32[64]{0:T(128)} fusion(%x), kind=kCustom, calls=%begins
  %e = f32[64]{0:T(128)} fusion(%f), kind=kCustom, calls=%ends
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%test, body=%body
}
"""


HOST = (
  'channel_id=2, is_host_transfer=true, frontend_attributes={'
  '_xla_megascale_target="{%s}x{0:3}",_xla_megascale_transfer_type="%s"}'
)
ON_SLICES = f"""HloModule jit_f, num_partitions=12

ENTRY %main (a: f32[8]) -> f32[8] {{
  %s = (f32[2,8]{{1,0}}, u32[]{{:S(2)}}, token[]) send(%a, %t), \
{HOST % ('1,2,3', 'ALL_REDUCE')}
  %r = (f32[2,8]{{1,0}}, u32[]{{:S(2)}}, token[]) recv(%t), \
{HOST % ('1,2,3', 'ALL_REDUCE')}
  %d = (f32[2,8]{{1,0}}, token[]) recv-done(%r), channel_id=2
  %g = (bf16[64]{{0}}, u32[]{{:S(2)}}, token[]) recv(%t), \
{HOST % ('1:2', 'ALL_GATHER')}
}}
"""


class TestCensus:
  def test_what_goes_between_slices_counts(self):
    assert collectives.census(ON_SLICES) == {
      'all-reduce': (1, 64, 64 * 2 * 2 / 3),
      'all-gather': (1, 128, 64.0),
    }

  def test_a_tpu_sends_once_what_stands_in_several_fusions(self):
    found = collectives.census(ON_A_TPU)
    assert found == {
      'all-gather': (5, 5 * 256, 5 * 256 * 7 / 8),
      'reduce-scatter': (5, 5 * 32, 5 * 32 * 7),
    }

  def test_kinds_sizes_loops_and_groups(self):
    found = collectives.census(TEXT)
    assert found['collective-permute'] == (3, 3 * 128, 3 * 128.0)
    sent = 80 * 2 * 3 / 4 + 8 * 2 * 7 / 8 + 8 * 2 * 5 / 6 + 8 * 2 * 1 / 2
    assert found['all-reduce'] == (4, 104, sent)
    assert found['all-gather'] == (1, 256, 128.0)
    assert set(found) == {'all-reduce', 'all-gather', 'collective-permute'}

  def test_a_real_program(self):
    with jax.set_mesh(mesh_lib.make({'data': 8})):
      x = mesh_lib.place(np.ones((8, 5), np.float32))
      text = jax.jit(lambda x: x.sum(0)).lower(x).compile().as_text()
    assert collectives.census(text)['all-reduce'].bytes == 20


class TestFlops:
  def test_a_product_a_convolution_and_a_loop(self):
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert complexity.count(lambda a, b: a @ b, a, b).work == 2 * 3 * 4 * 5

    def loop(a):
      return jax.lax.scan(lambda h, _: (h @ b @ b.T, None), a, None, 7)[0]

    assert complexity.count(loop, a).work == 7 * 2 * (2 * 3 * 4 * 5)
    image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 6))
    convolve = lambda x, w: jax.lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    want = 2 * 64 * 6 * 27
    assert complexity.count(convolve, image, kernel).work == want
    assert complexity.count(jax.jit(convolve), image, kernel).work == want


def _config(name, batch, **model):
  config = configuration.default_config()
  config.model.update(name=name, event=(8, 8, 1), **model)
  config.optimizer.update(name='adamw', clip_norm=1.0)
  config.train.update(batch_size=batch, ema_decay=0.9)
  return config


@pytest.fixture(scope='module')
def planner():
  return plan.Planner(digits_made.get_config(), 8)


class TestPlanner:
  def test_memory_within_15_percent_of_xla(self, planner):
    for mesh in ('data=8', 'data=2,fsdp=4'):
      sizes = mesh_lib.fill(mesh_lib.parse(mesh), 8)
      ours, theirs = planner.predict(sizes), planner.compiled(sizes)
      print(mesh, ours.memory / theirs.memory, ours.sent, theirs.collectives)
      assert abs(ours.memory / theirs.memory - 1) < 0.15
      sent = sum(t.sent for t in theirs.collectives.values())
      assert abs(sum(ours.sent.values()) / sent - 1) < 0.15

  def test_ranks_every_mesh_and_picks_one(self, planner):
    choices = planner.rank(hardware.find('v5e'))
    assert len(choices) == 4  # powers of two over data and fsdp
    assert all(c.fits and c.seconds > 0 for c in choices)
    assert [c.seconds for c in choices] == sorted(c.seconds for c in choices)
    small = hardware.find('v5e')._replace(memory=1e3)
    assert not any(c.fits for c in planner.rank(small))

  def test_meshes_that_a_family_cannot_use_are_left_out(self):
    config = _config(
      'transformer', 4, num_values=2, features=32, layers=1, heads=2
    )
    meshes = list(plan.Planner(config, 8).meshes())
    assert meshes
    assert all(m['tensor'] <= 2 for m in meshes)
    assert all(m['data'] * m['fsdp'] <= 4 for m in meshes)

  def test_a_batch_that_no_mesh_divides_is_refused(self):
    config = _config('made', 12, hidden=(8,))
    config.train.accumulate = 2
    with pytest.raises(ValueError, match=r'7 devices .* batch of 6.* to 14'):
      plan.Planner(config, 7).rank(hardware.find('v5e'))
    with pytest.raises(ValueError, match='7 devices are no 2 equal slices'):
      plan.Planner(config, 7).rank(hardware.find('v5e'), slices=2)

  def test_what_fsdp_does_not_divide_costs_as_under_data(self, monkeypatch):
    planner = plan.Planner(_config('made', 12, hidden=(32,)), 12)
    assert planner._program.cut(4) > 0.9  # 32 units, 64 inputs
    assert planner._program.cut(3) == planner._program.cut(6) == 0
    made = lambda sent: programs.Compiled(
      0, sent, 0.0, 0.0, {'all-gather': collectives.Traffic(1, sent, 0.0)}
    )
    of = lambda axis, n: [made(100 if axis == 'data' else n)] * 2
    monkeypatch.setattr(planner, '_probe', of)
    at = lambda n: planner._at('fsdp', n, 1, lambda c: c.temporary)
    assert [at(n) for n in (2, 4, 3, 6)] == [2, 4, 100, 100]

  @pytest.mark.parametrize(
    ('shape', 'slices', 'slow'),
    [
      ((4, 2, 2, 1), 2, {'data'}),
      ((3, 1, 2, 1), 2, {'tensor'}),  # data does not divide them
      ((2, 8, 1, 1), 4, {'data', 'fsdp'}),
      ((4, 2, 2, 1), 1, set()),
    ],
  )
  def test_what_goes_over_slices_is_what_the_mesh_puts_there(
    self, shape, slices, slow
  ):
    sizes = dict(zip(partition.AXES, shape, strict=True))
    sent = {axis: 1.0 * n for axis, n in sizes.items() if n > 1}
    found = zip(sent, plan._links(sent, sizes, slices), strict=True)
    assert {axis for axis, (_, inside) in found if not inside} == slow


class TestHardware:
  def test_a_file_of_your_own(self, tmp_path):
    path = tmp_path / 'mine.json'
    path.write_text('{"name": "mine"}')
    with pytest.raises(ValueError, match='must hold exactly the fields'):
      hardware.find(str(path))
    with pytest.raises(ValueError, match='v5e, v5p'):
      hardware.find('v9')
    h100 = hardware.find('h100')._asdict()
    for wrong, lesson in (
      ('[1]', 'must hold exactly the fields'),
      ('{', 'is no JSON'),
      (json.dumps(h100 | {'flops': 'fast'}), "flops = 'fast', expected a fin"),
      (json.dumps(h100 | {'link': 0}), 'link = 0, expected a finite number'),
      (json.dumps(h100 | {'memory': float('nan')}), 'memory = nan'),
      (json.dumps(h100 | {'group': 0.5}), 'expected a whole number above 0'),
      (json.dumps(h100 | {'name': 7}), 'name = 7, expected a text'),
    ):
      path.write_text(wrong)
      with pytest.raises(ValueError, match=lesson):
        hardware.find(str(path))
    path.write_text(json.dumps(h100))
    assert hardware.find(str(path)) == hardware.find('h100')


def test_a_quantity_that_falls_is_not_extended():
  rising = plan._Line((8, 1.0), (16, 2.0))
  falling = plan._Line((8, 2.0), (16, 1.0))
  assert [rising.at(b) for b in (8, 16, 64)] == [1.0, 2.0, 8.0]
  assert [falling.at(b) for b in (8, 12, 16, 64)] == [2.0, 1.5, 1.0, 1.0]
