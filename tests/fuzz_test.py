"""Damaged and hostile files: refused in one paragraph, or read right.

A mutation is a seed. Each reader either gives the numbers that were written, or
raises what it is documented to raise, in 10 seconds of work and 1 GB. Where a
format has a digest or a checksum of its description, half of the mutations
repair it, as a person would.
"""

import collections
import io
import json
import pathlib
import random
import resource
import shutil
import struct
import time
import zipfile

import jax
import numpy as np
import pytest

from parallel_ar import export
from parallel_ar.training import (
  checkpoint,
  checkpoint_meta,
  params_file,
  trained,
)

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'format_2'
ODD = [
  *(None, True, -1, 0, 3, 10**9, 2**63, 10**40, 1e308, float('nan'), '', 'x'),
  *(
    '../../x',
    [],
    {},
    [[]],
    [10**9] * 3,
    {'a': 1},
    ['x'],
    [1] * 3000,
    'é' * 99,
  ),
]
# A read of broken data is given up while parts of it are still on their way.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)
KINDS = ('checkpoint', 'config', 'params', 'bundle')


class Files:
  """What is mutated, and what a right reader gives back."""

  def __init__(self, tmp: pathlib.Path):
    self.tmp = tmp
    run = trained.load(GOLDEN)
    self.right = [
      jax.tree.leaves(jax.device_get(p))
      for p in (run.params, trained.load(GOLDEN, which='raw').params)
    ]
    config = json.loads((GOLDEN / 'config.json').read_text())
    params_file.save(
      tmp / 'good.npz', run.params, config, step=run.step, which='ema'
    )
    export.save(tmp / 'good.par', run.models[0], run.params)

  def is_right(self, params) -> bool:
    found = jax.tree.leaves(jax.device_get(params))
    return any(
      len(found) == len(want)
      and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(found, want, strict=True)
      )
      for want in self.right
    )

  def outcome(self, kind: str, seed: int) -> str:
    """'read' or 'refused', of one mutation; all else fails."""
    rng = random.Random(f'{kind} {seed}')
    path = self.tmp / 'bad'
    if path.is_dir():
      shutil.rmtree(path)
    path.unlink(missing_ok=True)
    repaired = False
    if kind in ('checkpoint', 'config'):
      shutil.copytree(GOLDEN, path)
      _mutate_run(path, kind, rng)
    else:
      good = self.tmp / {'params': 'good.npz', 'bundle': 'good.par'}[kind]
      repaired = rng.random() < 0.7
      change = _mutate_zip if repaired else _mutate_bytes
      path.write_bytes(change(good.read_bytes(), rng))
    started = time.process_time()
    try:
      loaded = export.load(path) if kind == 'bundle' else trained.load(path)
      # Numbers of a bundle whose CRC a person repaired are that person's.
      right = kind == 'bundle' and repaired or self.is_right(loaded.params)
      assert right, f'{kind} {seed}: wrong numbers'
      said = 'read'
    except (ValueError, checkpoint.CheckpointError) as error:
      text = str(error)
      assert str(path) in text and 'pickle' not in text, (
        f'{kind} {seed}: {text}'
      )
      said = 'refused'
    assert time.process_time() - started < 10, f'{kind} {seed}: too slow'
    return said


def _mutate_bytes(content: bytes, rng: random.Random) -> bytes:
  data, size = bytearray(content), len(content)
  at = rng.randrange(size) if size else 0
  span = rng.choice([1, 4, 8, 64, 1000])
  match rng.randrange(7):
    case 0 if size:
      data[at] ^= 1 << rng.randrange(8)
    case 1:
      del data[at:]
    case 2:
      del data[at : at + span]
    case 3:
      data[at : at + span] = bytes(min(span, size - at))
    case 4:
      data[at : at + span] = rng.randbytes(span)
    case 5:
      other = rng.randrange(size) if size else 0
      data[at : at + span] = data[other : other + span]
    case _:
      value = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
      data[at : at + 4] = struct.pack('<I', value)
  return bytes(data)


def _mutate_json(value, rng: random.Random):
  """The value with something in it replaced, dropped or added."""
  if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
    return rng.choice(ODD)
  value = dict(value) if isinstance(value, dict) else list(value)
  keys = list(value) if isinstance(value, dict) else range(len(value))
  key = rng.choice(keys)
  if rng.random() < 0.15:
    del value[key]
  elif rng.random() < 0.1 and isinstance(value, dict):
    value['of nobody'] = rng.choice(ODD)
  else:
    value[key] = _mutate_json(value[key], rng)
  return value


def _mutate_text(content: bytes, rng: random.Random) -> bytes:
  """A JSON text with other data in it, and its digest repaired."""
  if rng.random() < 0.3:
    return _mutate_bytes(content, rng)
  data = _mutate_json(json.loads(content), rng)
  if isinstance(data, dict) and 'digest' in data and rng.random() < 0.8:
    data['digest'] = checkpoint_meta.digest(data)
  return json.dumps(data).encode()


def _mutate_run(path: pathlib.Path, kind: str, rng: random.Random) -> None:
  if kind == 'config':
    files = [path / 'config.json']
  else:
    files = sorted(p for p in path.rglob('checkpoints/*/**/*') if p.is_file())
  target = rng.choice(files)
  meta = [p for p in files if p.parent.name == 'meta']
  if meta and rng.random() < 0.4:
    target = rng.choice(meta)
  content = target.read_bytes()
  if rng.random() < 0.1 and kind == 'checkpoint':
    match rng.randrange(3):
      case 0:
        target.unlink()
      case 1:
        shutil.copy(rng.choice(files), target)
      case _:
        shutil.rmtree(target.parent)
  elif content[:1] == b'{':
    target.write_bytes(_mutate_text(content, rng))
  else:
    target.write_bytes(_mutate_bytes(content, rng))


def _mutate_zip(content: bytes, rng: random.Random) -> bytes:
  """An archive with other members, whose CRCs are right."""
  with zipfile.ZipFile(io.BytesIO(content)) as file:
    held = {name: file.read(name) for name in file.namelist()}
  name, other = rng.choice(list(held)), rng.choice(list(held))
  match rng.randrange(6):
    case 0:
      held[name] = held[other]
    case 1:
      del held[name]
    case 2:
      held['of nobody.npy'] = held[name]
    case 3 if name.endswith('.npy'):
      shape = rng.choice([(2**50,), (2**32, 2**32), (-1,), (), (0,), (3,)])
      descr = rng.choice(['<f4', '|O', '<f8', '|V4', '|u1', '<M8[s]'])
      about = {'descr': descr, 'fortran_order': False, 'shape': shape}
      header = repr(about).encode() + b'\n'
      magic = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header))
      held[name] = magic + header + held[name][128:]
    case 4 if 'params.npz' in held:
      held['params.npz'] = _mutate_zip(held['params.npz'], rng)
    case _:
      held = _mutate_member(held, name, rng)
  file = io.BytesIO()
  with zipfile.ZipFile(
    file, 'w', rng.choice([0, zipfile.ZIP_DEFLATED])
  ) as made:
    for member, whole in held.items():
      made.writestr(member, whole)
  return file.getvalue()


def _mutate_member(held, name, rng):
  described = f'{params_file.META}.npy'
  if described in held and rng.random() < 0.7:
    start = held[described].index(b'\n') + 1
    text = np.frombuffer(_mutate_text(held[described][start:], rng), np.uint8)
    file = io.BytesIO()
    np.save(file, text)
    return held | {described: file.getvalue()}
  change = _mutate_text if name.endswith('.json') else _mutate_bytes
  return held | {name: change(held[name], rng)}


def _fuzz(tmp_path: pathlib.Path, count: int) -> dict[str, dict[str, int]]:
  files = Files(tmp_path)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  counts = {
    kind: dict(
      collections.Counter(files.outcome(kind, seed) for seed in range(count))
    )
    for kind in KINDS
  }
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 1 << 20  # kB
  return counts


def test_a_few_mutations(tmp_path):
  counts = _fuzz(tmp_path, 12)
  for kind in KINDS:
    assert counts[kind]['refused'] > 1, counts


@pytest.mark.slow
def test_two_thousand_mutations(tmp_path):
  counts = _fuzz(tmp_path, 500)
  print(counts)
  for kind in KINDS:
    assert sum(counts[kind].values()) == 500
    assert counts[kind]['refused'] > 100, counts
