"""Files that were damaged, or made on purpose, and a file of long ago."""

import collections
import random
import struct
import tracemalloc
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import coding, heads, order
from parallel_ar.coding import container

L, V, BATCH = 12, 5, 16
START = 10  # magic, crc, version, method and precision


def _conditionals(params, x, context):
  """A sum over the past that forgets."""
  age = np.arange(L)[:, None] - np.arange(L)[None]
  weights = jnp.asarray(np.where(age > 0, 0.8**age, 0), jnp.float32)
  return weights @ (jax.nn.one_hot(x, V) @ params)


MODEL = par.from_function(
  _conditionals,
  event=(L,),
  rank=order.raster((L,)),
  head=heads.categorical(V),
  init=lambda key: 2 * jax.random.normal(key, (V, V)),
)
PARAMS = MODEL.init(jax.random.key(0))
X = np.random.default_rng(1).integers(0, V, (37, L))
METHODS = 'cached', 'lanes', 'stream'
PAIRS = {
  method: coding.codec(MODEL, method=method, batch=BATCH) for method in METHODS
}


@pytest.fixture(scope='module', params=METHODS)
def coded(request):
  pair = PAIRS[request.param]
  return pair, pair.encode(PARAMS, X)


def repaired(data: bytes) -> bytes:
  """The file with the checksum of its bytes."""
  return data[:4] + struct.pack('<I', zlib.crc32(data[8:])) + data[8:]


def with_header(data: bytes, body=None, **fields) -> bytes:
  """The file with other fields in its header."""
  head, own = container.read(data)
  return container.write(head._replace(**fields), own if body is None else body)


def mutate(rnd: random.Random, data: bytes) -> bytes:
  """One change of header, body or length; mostly with a right checksum."""
  head, body = container.read(data)
  kind = rnd.choice(['flip', 'byte', 'field', 'cut', 'grow', 'swap', 'body'])
  out = bytearray(data)
  at = rnd.randrange(rnd.choice([0, 8, len(data) - len(body)]), len(out))
  if kind == 'flip':
    out[at] ^= 1 << rnd.randrange(8)
  elif kind == 'byte':
    out[at] = rnd.choice([0, 1, 127, 128, 255, rnd.randrange(256)])
  elif kind == 'cut':
    del out[at:]
  elif kind == 'grow':
    out += rnd.randbytes(rnd.choice([1, 2, 4, 100]))
  elif kind == 'swap':
    other = rnd.randrange(len(out))
    out[at], out[other] = out[other], out[at]
  elif kind == 'field':
    name = rnd.choice(['num', 'batch', 'precision', 'method', 'probe'])
    values = {
      'num': [0, 1, 36, 38, 48, 255, 65535, 4 * 10**6, 2**32 - 1, 2**34],
      'batch': [1, 15, 17, 48, 2**32 - 1],
      'precision': [0, 1, 2, 15, 17, 31],
      'method': METHODS,
      'probe': [bytes(4), rnd.randbytes(4)],
    }
    out = bytearray(with_header(data, **{name: rnd.choice(values[name])}))
  else:  # another body of the right length in the header
    new = bytearray(body)
    i, j = sorted(rnd.randrange(len(new)) for _ in range(2))
    new[i:j] = rnd.choice([b'', bytes(j - i), rnd.randbytes(rnd.randrange(64))])
    num = head.num + rnd.choice([0, 0, 1, 16, -1])
    out = bytearray(with_header(data, bytes(new), num=num))
  return repaired(bytes(out)) if rnd.random() < 0.95 else bytes(out)


def attack(pair, data: bytes, count: int, seed: int) -> collections.Counter:
  """Decodes mutations; anything but BadFile or the events is an error."""
  rnd, seen = random.Random(seed), collections.Counter()
  for _ in range(count):
    bad = mutate(rnd, data)
    try:
      back = pair.decode(PARAMS, bad).x
    except coding.BadFile as error:
      seen[str(error).split(':')[0][:40]] += 1
    else:  # what was changed decides nothing
      np.testing.assert_array_equal(back, X)
      seen['the events'] += 1
  return seen


def test_mutations(coded):
  seen = attack(*coded, count=300, seed=1)
  assert len(seen) > 6 and seen['the events'] < 60


@pytest.mark.slow
def test_20000_mutations_stay_below_a_gigabyte(coded):
  tracemalloc.start()
  attack(*coded, count=10_000, seed=2)
  assert tracemalloc.get_traced_memory()[1] < 2**30
  tracemalloc.stop()


@pytest.mark.parametrize('num', [38, 10**5, 4 * 10**6, 2**32 - 1, 2**35 - 1])
def test_many_events_are_refused_before_memory_is_taken(coded, num):
  pair, data = coded
  tracemalloc.start()
  with pytest.raises(coding.BadFile):
    pair.decode(PARAMS, with_header(data, num=num))
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


def test_fields_out_of_range(coded):
  pair, data = coded
  how = data[9]
  for wrong in (how | 3 << 5, how | 7 << 5, how & ~31, how & ~31 | 17):
    bad = repaired(data[:9] + bytes([wrong]) + data[10:])
    with pytest.raises(coding.BadFile, match='The header asks for method'):
      pair.decode(PARAMS, bad)
  with pytest.raises(coding.BadFile, match='asks for .* batch 0'):
    coding.read_header(with_header(data, batch=0))
  with pytest.raises(coding.BadFile, match=r'above 2\^35'):
    coding.read_header(repaired(data[:START] + b'\xff' * 99))
  with pytest.raises(coding.BadFile, match='has no end'):
    coding.read_header(repaired(data[:START] + b'\xff'))
  with pytest.raises(coding.BadFile, match='no events, and bits'):
    pair.decode(PARAMS, with_header(data, num=0, probe=bytes(4)))


def test_bits_that_are_left_over(coded):
  pair, data = coded
  _, body = container.read(data)
  with pytest.raises(coding.BadFile, match='could not be decoded'):
    pair.decode(PARAMS, with_header(data, body + bytes(range(1, 9))))


def test_a_file_of_version_1_is_named(coded):
  _, data = coded
  old = repaired(data[:8] + bytes([1]) + data[9:])
  with pytest.raises(coding.BadFile, match='version 1.*before 26 November'):
    coding.read_header(old)


class TestHeader:
  def test_round_trip(self, coded):
    head, body = container.read(coded[1])
    for num in (0, 1, 127, 128, 300, 2**21, 2**34):
      wanted = head._replace(num=num, batch=num + 1, precision=2)
      assert container.read(container.write(wanted, body)) == (wanted, body)

  def test_parameters_are_hashed_by_value(self):
    a = jnp.arange(5.0)
    first = container.params_hash({'w': a})
    assert container.params_hash({'w': a}) == first  # from the cache
    assert container.params_hash({'w': np.arange(5, dtype='f4')}) == first
    assert container.params_hash({'w': a + 1}) != first
    mutable = np.arange(5, dtype='f4')
    container.params_hash({'w': mutable})
    mutable[0] = 9
    assert container.params_hash({'w': mutable}) != first


# Logits 0 and -inf: probabilities 1, 1/2 and 1/4 have no rounding anywhere.
GOLDEN_X = np.array([[0, 1, 2, 3], [3, 3, 1, 0], [2, 2, 2, 2]])
GOLDEN = {
  'cached': (
    '50415263225f9c35025003020ce3b0c442fb497302e3b0c44290cee0b77dbcda4b00'
    '0c0000020068ab4da5e3b078a902e2ab4fff90ffffc0058000c0'
  ),
  'lanes': (
    '5041526382ed8d85021003021be3b0c442fb497302e3b0c44290cee0b758be947b00'
    '0a0200010068ab4da5e3b078a90242000042400023fff90b00008c0000ffff140008'
    '80008000800000'
  ),
  'stream': (
    '504152638b848b430230030208e3b0c442fb497302e3b0c44290cee0b758be947b00'
    '0a0200010068ab4da5e3b078a902ffffff3701cba1f8'
  ),
}


def _golden_model():
  """A symbol is at least as large as half of the one before it."""

  def conditionals(params, x, context):
    before = jnp.concatenate([jnp.zeros(1, x.dtype), x[:-1]])
    least = jnp.array([[0, 0, 0, 0], [0, 0, 2, 2]])[before % 2]
    return jnp.where(least > 1, -jnp.inf, 0.0)

  return par.from_function(
    conditionals,
    event=(4,),
    rank=order.raster((4,)),
    head=heads.categorical(4),
    init=lambda key: {},
  )


@pytest.mark.parametrize('method', GOLDEN)
def test_a_file_of_this_version_is_read_for_ever(method):
  pair = coding.codec(_golden_model(), batch=2)
  data = bytes.fromhex(GOLDEN[method])
  np.testing.assert_array_equal(pair.decode({}, data).x, GOLDEN_X)
  again = coding.codec(_golden_model(), method=method, batch=2)
  new = container.read(again.encode({}, GOLDEN_X))
  old = container.read(data)
  assert new[1] == old[1]
  assert new[0]._replace(facts=None) == old[0]._replace(facts=None)
