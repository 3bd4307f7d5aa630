"""The character network that ships in PyPI's textgenrnn, as a function.

  pip download --no-deps --no-binary :all: textgenrnn==2.0.0
  ./run.sh tables/pretrained --package=textgenrnn-2.0.0.tar.gz

Two LSTMs of 128 units read the last 40 characters, an attention-weighted
average joins all their states, and a softmax tells the next of 464 characters;
the last one, '<s>', stands before and after a text. It was trained on titles of
Reddit. Nothing of the package runs: its weights are read with h5py.
"""

import io
import json
import tarfile

import jax
import jax.numpy as jnp
import numpy as np

import parallel_ar as par

WINDOW = 40
END = 464  # '<s>'; 0 pads on the left


def load(package: str) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """The weights and the vocabulary in a package file: (params, {'a': 43})."""
  import h5py

  with tarfile.open(package) as archive:

    def read(name: str) -> bytes:
      member = f'textgenrnn-2.0.0/textgenrnn/textgenrnn_{name}'
      file = archive.extractfile(member)
      if file is None:
        raise ValueError(f'{package}: {member} is no file.')
      return file.read()

    vocabulary = json.loads(read('vocab.json'))
    file = h5py.File(io.BytesIO(read('weights.hdf5')), 'r')
    take = lambda layer, name: file[f'{layer}/{layer}/{name}:0'][()]
    params = {
      'embed': take('embedding', 'embeddings'),
      'attention': take('attention', 'attention_W')[:, 0],
      'out': take('output', 'kernel'),
      'out_bias': take('output', 'bias'),
    }
    for n in (1, 2):  # as CuDNN lays them out: each gate is transposed
      gates = np.split(take(f'rnn_{n}', 'kernel'), 4, 1)
      kernels = [gate.T.reshape(gate.shape, order='F') for gate in gates]
      gates = np.split(take(f'rnn_{n}', 'recurrent_kernel'), 4, 1)
      params[f'read_{n}'] = np.concatenate(kernels, 1)
      params[f'state_{n}'] = np.concatenate([gate.T for gate in gates], 1)
      params[f'bias_{n}'] = take(f'rnn_{n}', 'bias').reshape(2, -1).sum(0)
  return params, vocabulary


def _lstm(h_TN, read, state, bias):
  def step(carry, given):
    h, c = carry
    i, f, g, o = jnp.split(given + h @ state, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  zero = jnp.zeros(state.shape[0])
  return jax.lax.scan(step, (zero, zero), h_TN @ read + bias)[1]


def _next(params, window_T):
  """Logits of the character after a window of 40."""
  h_TN = params['embed'][window_T]
  first = _lstm(h_TN, *(params[f'{n}_1'] for n in ('read', 'state', 'bias')))
  second = _lstm(first, *(params[f'{n}_2'] for n in ('read', 'state', 'bias')))
  all_TN = jnp.concatenate([h_TN, first, second], 1)
  weight_T = jax.nn.softmax(all_TN @ params['attention'])
  return weight_T @ all_TN @ params['out'] + params['out_bias']


def model(params: dict[str, np.ndarray], length: int):
  """Texts of up to `length` characters, which end with '<s>'."""

  def conditionals(params, x, context):
    before = jnp.concatenate(
      [jnp.zeros(WINDOW - 1, x.dtype), jnp.array([END], x.dtype), x[:-1]]
    )
    windows = jnp.arange(length)[:, None] + jnp.arange(WINDOW)[None, :]
    return jax.vmap(_next, (None, 0))(params, before[windows])

  record = par.from_function(
    conditionals,
    event=(length,),
    rank=par.order.raster(length),
    head=par.heads.categorical(END + 1),
    init=lambda key: params,
    name='textgenrnn',
  )
  return par.with_end(record, END)
