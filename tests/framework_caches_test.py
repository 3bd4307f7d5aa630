"""Caches of frameworks as decode paths: law 4 on each."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import parallel_ar as par
from parallel_ar.testing import case as cases
from parallel_ar.testing import decode_laws
from tests import options_test, toys

LENGTH, VALUES, WIDTH = 7, 3, 8
HEAD = par.heads.categorical(VALUES)
PARTS = [1] * LENGTH, [2, 1, 4], [LENGTH]


class Linen(nn.Module):
  """Positions, two layers of attention; `decode` has Flax's own cache."""

  decode: bool = False

  @nn.compact
  def __call__(self, tokens, position=0):
    h = nn.Embed(VALUES + 1, WIDTH)(tokens)
    places = self.param('places', nn.initializers.normal(1.0), (LENGTH, WIDTH))
    here = jax.lax.dynamic_slice_in_dim(places, position, tokens.shape[1])
    h = h + here[None]
    for _ in range(2):
      mask = None if self.decode else nn.make_causal_mask(tokens)
      attend = nn.MultiHeadDotProductAttention(2, decode=self.decode)
      h = h + attend(h, mask=mask)
    return nn.Dense(VALUES + 1)(h)


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(VALUES + 1, WIDTH, rngs=rngs)
    self.attend = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.out = nnx.Linear(WIDTH, VALUES, rngs=rngs)

  def __call__(self, tokens):
    h = self.embed(tokens)
    mask = None if self.attend.decode else nnx.make_causal_mask(tokens)
    return self.out(self.dropout(h + self.attend(h, mask=mask)))


class Outputs(dict):
  """As the outputs of Hugging Face's models: a dict with attributes."""

  __getattr__ = dict.__getitem__


class HuggingFace:
  """One layer of attention in the calling convention of their Flax models.

  It adds to rows of its cache, so that rows of a draft must be cleared.
  """

  def init(self, key):
    shapes = {
      'e': (VALUES + 1, WIDTH),
      'p': (LENGTH, WIDTH),
      'q': (WIDTH, WIDTH),
    }
    shapes['o'] = WIDTH, VALUES + 1
    keys = jax.random.split(key, len(shapes))
    draw = zip(shapes.items(), keys, strict=True)
    return {n: jax.random.normal(k, shape) for (n, shape), k in draw}

  def init_cache(self, batch, length):
    return {
      'keys': jnp.zeros((batch, length, WIDTH)),
      'index': jnp.zeros((), jnp.int32),
    }

  def __call__(
    self,
    input_ids,
    attention_mask=None,
    position_ids=None,
    params=None,
    past_key_values=None,
  ):
    if position_ids is None:
      position_ids = jnp.arange(input_ids.shape[1])[None]
    h = params['e'][input_ids] + params['p'][position_ids]
    keys, first, cache = h, 0, None
    if past_key_values is not None:
      first = past_key_values['index']
      row = jax.nn.one_hot(first, LENGTH)[None, :, None]
      keys = past_key_values['keys'] + row * h
      cache = {'keys': keys, 'index': first + 1}
    here = first + jnp.arange(input_ids.shape[1])
    mask = jnp.arange(keys.shape[1])[None] <= here[:, None]
    scores = jnp.where(mask, h @ params['q'] @ keys.mT, -1e9)
    h = h + jax.nn.softmax(scores, -1) @ keys
    return Outputs(logits=h @ params['o'], past_key_values=cache)


class Gru(nn.Module):
  """A recurrence: its cache is its state, which no index brings back."""

  decode: bool = False

  @nn.compact
  def __call__(self, tokens):
    cell = nn.GRUCell(WIDTH)
    h = nn.Embed(VALUES + 1, WIDTH)(tokens)
    carry = jnp.zeros((len(tokens), WIDTH))
    if self.decode:
      state = self.variable('cache', 'state', lambda: carry)
      carry, out = cell(state.value, h[:, 0])
      if not self.is_initializing():
        state.value = carry
      return nn.Dense(VALUES)(out[:, None])
    scan = nn.RNN(cell)
    return nn.Dense(VALUES)(scan(h, initial_carry=carry))


def of_linen():
  call = lambda m, tokens, context: m(tokens)
  model = par.from_linen(
    Linen(), event=(LENGTH,), head=HEAD, start=VALUES, batched=True, call=call
  )
  # The pass learns the position from the index, a step from the caller.
  step = lambda m, tokens, context, position: m(tokens, position)
  return model, par.linen_cache(Linen(decode=True), LENGTH, call=step)


def of_nnx(module=Nnx):
  model = par.from_nnx(module, event=(LENGTH,), head=HEAD, start=VALUES)
  return model, par.nnx_cache(module, LENGTH)


def of_hugging_face():
  net = HuggingFace()
  model = par.from_apply(
    lambda params, tokens: net(tokens, params=params),
    net.init,
    event=(LENGTH,),
    head=HEAD,
    start=VALUES,
  )
  return model, par.past_key_values(net, LENGTH)


def of_recurrence():
  model = par.from_linen(
    Gru(), event=(LENGTH,), head=HEAD, start=VALUES, batched=True
  )
  return model, par.linen_cache(Gru(decode=True), LENGTH)


FRAMEWORKS = {
  'linen': of_linen,
  'nnx': of_nnx,
  'nnx module': lambda: of_nnx(Nnx(nnx.Rngs(1))),
  'hugging face': of_hugging_face,
  'recurrence': of_recurrence,
}


def own(length=LENGTH, shift=0, grow=False, **fields):
  """A running sum of embeddings, and the cache of its sums.

  shift: adds to the position that a step takes; grow: the cache does.
  """
  rank = fields.get('rank', par.order.raster(length))
  slots = par.order.slots(rank)
  ends = np.argsort(slots)

  def init(key):
    e, p = jax.random.split(key)
    return {
      'e': jax.random.normal(e, (VALUES + 1, VALUES)),
      'p': jax.random.normal(p, (length, VALUES)),
    }

  def pass_(params, x, context):
    tokens = jnp.concatenate([jnp.array([VALUES]), x.reshape(-1)[slots][:-1]])
    dist = jnp.cumsum(params['e'][tokens], 0) + params['p']
    if context is not None:
      dist = dist + context[None]
    return dist[ends].reshape(*rank.shape, VALUES)

  def step(params, cache, token, position):
    total = cache['total'] + params['e'][token]
    dist = total + params['p'][position + shift]
    if cache['context'] is not None:
      dist = dist + cache['context']
    new = {**cache, 'total': total}
    if grow:
      new['seen'] = jnp.append(cache['seen'], token)
    return {'logits': dist}, new

  def start(params, context):
    seen = jnp.zeros(0, jnp.int32)
    return {'total': jnp.zeros(VALUES), 'context': context, 'seen': seen}

  model = par.from_function(
    pass_, event=rank.shape, head=HEAD, init=init, **{'rank': rank, **fields}
  )
  return model, par.Cache(start, step)


class TestCaches:
  @pytest.mark.parametrize('name', FRAMEWORKS)
  def test_law_4_and_the_samplers(self, name):
    """Any blocks, drafts rewound, and the integers of ancestral."""
    model, cache = FRAMEWORKS[name]()
    path = par.decode_from_cache(model, cache, start=VALUES)
    case = cases.make_case(model)
    decode_laws.decode_agreement(case, path, PARTS)
    slow = par.ancestral(model)(case.params, case.keys)
    for sampler in (par.cached(model, path), par.window(model, path)):
      fast = sampler(case.params, case.keys)
      np.testing.assert_array_equal(fast.x, slow.x)
    assert (
      par.cached(model, path)(case.params, case.keys).info.steps == 7
    ).all()

  @pytest.mark.parametrize(
    'fields',
    [
      {'context': jax.ShapeDtypeStruct((VALUES,), jnp.float32)},
      {'rank': par.order.random((2, 3), 1)},
      {'rank': par.order.raster(1)},
    ],
    ids=['context', 'order', 'one symbol'],
  )
  def test_of_ones_own(self, fields):
    size = fields.get('rank', par.order.raster(LENGTH)).size
    model, cache = own(size, **fields)
    path = par.decode_from_cache(model, cache, start=VALUES)
    decode_laws.decode_agreement(cases.make_case(model), path)

  def test_what_the_arrays_of_a_cache_are(self):
    """Flax's rows and index are set back; nothing of them is kept twice."""
    for name, states in (('linen', 0), ('hugging face', 0), ('recurrence', 1)):
      model, cache = FRAMEWORKS[name]()
      path = par.decode_from_cache(model, cache, start=VALUES)
      params = model.init(jax.random.key(0))
      kept = path.init(params, None)
      assert len(kept.before) == states, name
      x = jnp.array([0, 1, 2, 2, 1, 0, 1])
      _, draft = path.extend(params, kept, 0, x)
      _, short = path.extend(params, kept, 0, x[:3])
      back = path.rewind(draft, 3)
      if not states:
        moved = [n for n in range(len(kept.live)) if n not in kept.first]
        for n in moved:
          np.testing.assert_array_equal(back.live[n][..., 3:, :], 0)
          np.testing.assert_allclose(back.live[n], short.live[n], rtol=1e-5)

  @pytest.mark.parametrize(
    ('fields', 'start', 'message'),
    [
      ({}, 0, r'slot 0 are .* of the largest away.*Is 0 what the pass'),
      ({'shift': 1}, VALUES, 'slot 0 are .*count positions from 0'),
      (
        {'grow': True},
        VALUES,
        r"\['seen'\] is int32\[0\] before.*room for all 7",
      ),
      ({'rank': par.order.blocks(LENGTH, 2)}, VALUES, 'in 4 ranks'),
    ],
    ids=['start', 'position', 'growing', 'ties'],
  )
  def test_refused(self, fields, start, message):
    rank = fields.pop('rank', None)
    model, cache = own(**fields)
    if rank is not None:
      model = toys.sigmoid_net((LENGTH,), rank, VALUES)
    with pytest.raises(ValueError, match=message):
      par.decode_from_cache(model, cache, start=start)

  def test_other_conditionals_than_the_pass(self):
    model, cache = own()
    short = lambda *args: ((out := cache.step(*args))[0]['logits'][:2], out[1])
    with pytest.raises(ValueError, match=r'\(3, 2\), and the pass \(3, 3\)'):
      par.decode_from_cache(model, cache._replace(step=short), start=VALUES)

  def test_a_module_without_a_cache(self):
    model, _ = of_linen()
    cache = par.linen_cache(Linen(), LENGTH)
    with pytest.raises(ValueError, match="Linen makes no collection 'cache'"):
      par.decode_from_cache(model, cache, start=VALUES)
    with pytest.raises(ValueError, match='Nnx holds no nnx.Cache.*prepare='):
      par.nnx_cache(Nnx, LENGTH, prepare=lambda module: None)

  def test_a_cache_that_lies_after_three_steps_breaks_the_law(self):
    model, cache = own()

    def step(params, kept, token, position):
      out, kept = cache.step(params, kept, token, position)
      return {
        'logits': out['logits'] + (position > 3)[None] * jnp.arange(3)
      }, kept

    path = par.decode_from_cache(model, cache._replace(step=step), start=VALUES)
    with pytest.raises(cases.LawBroken, match='Law 4'):
      decode_laws.decode_agreement(cases.make_case(model), path)


def test_the_table_that_measures_them(tmp_path):
  flags = [
    '--length=16',
    '--batches=2',
    '--rounds=1',
    f'--out={tmp_path}/n.json',
  ]
  options_test.run('tables/framework_caches', flags)
  numbers = json.loads((tmp_path / 'n.json').read_text())['numbers']
  differ = [n['value'] for name, n in numbers.items() if 'differ' in name]
  assert len(differ) == 8 and not any(differ)
