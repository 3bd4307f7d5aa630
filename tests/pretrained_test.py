"""A GPT-2 of the format of Hugging Face gives the numbers of GPT-2."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par

safetensors = pytest.importorskip('safetensors.numpy')

V, N, H, LAYERS, POSITIONS, INNER, START = 11, 12, 3, 2, 9, 20, 7


def weights(rng, prefix=''):
  draw = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)
  found = {'wte.weight': draw(V, N), 'wpe.weight': draw(POSITIONS, N)}
  found |= {'ln_f.weight': 1 + draw(N), 'ln_f.bias': draw(N)}
  for l in range(LAYERS):
    for name, shape in {
      'ln_1.weight': (N,),
      'ln_1.bias': (N,),
      'attn.c_attn.weight': (N, 3 * N),
      'attn.c_attn.bias': (3 * N,),
      'attn.c_proj.weight': (N, N),
      'attn.c_proj.bias': (N,),
      'ln_2.weight': (N,),
      'ln_2.bias': (N,),
      'mlp.c_fc.weight': (N, INNER),
      'mlp.c_fc.bias': (INNER,),
      'mlp.c_proj.weight': (INNER, N),
      'mlp.c_proj.bias': (N,),
    }.items():
      found[f'h.{l}.{name}'] = draw(*shape)
    found[f'h.{l}.attn.bias'] = np.tril(np.ones((1, 1, 9, 9), np.float32))
  return {prefix + name: array for name, array in found.items()}


def config(**changes):
  return {
    'model_type': 'gpt2',
    'vocab_size': V,
    'n_positions': POSITIONS,
    'n_embd': N,
    'n_layer': LAYERS,
    'n_head': H,
    'n_inner': INNER,
    'bos_token_id': START,
    'layer_norm_epsilon': 1e-2,  # large, so that it shows
  } | changes


def write(path, arrays, **changes):
  (path / 'config.json').write_text(json.dumps(config(**changes)))
  safetensors.save_file(arrays, path / 'model.safetensors')
  return path


def reference(w, tokens):
  """log p of each token after START and those before, in float64."""
  w = {name: array.astype(np.float64) for name, array in w.items()}

  def norm(h, name):
    h = h - h.mean(-1, keepdims=True)
    h = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-2)
    return h * w[f'{name}.weight'] + w[f'{name}.bias']

  def linear(h, name):
    return h @ w[f'{name}.weight'] + w[f'{name}.bias']

  def softmax(a):
    a = np.exp(a - a.max(-1, keepdims=True))
    return a / a.sum(-1, keepdims=True)

  fed = np.array([START, *tokens[:-1]])
  h = w['wte.weight'][fed] + w['wpe.weight'][: len(fed)]
  for l in range(LAYERS):
    parts = linear(norm(h, f'h.{l}.ln_1'), f'h.{l}.attn.c_attn')
    q, k, v = (
      part.reshape(len(fed), H, N // H).swapaxes(0, 1)
      for part in np.split(parts, 3, -1)
    )
    scores = q @ k.swapaxes(1, 2) / np.sqrt(N // H)
    later = np.triu(np.ones((len(fed), len(fed)), bool), 1)
    att = softmax(np.where(later, -np.inf, scores)) @ v
    h = h + linear(
      att.swapaxes(0, 1).reshape(len(fed), N), f'h.{l}.attn.c_proj'
    )
    z = linear(norm(h, f'h.{l}.ln_2'), f'h.{l}.mlp.c_fc')
    z = z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
    h = h + linear(z, f'h.{l}.mlp.c_proj')
  logits = norm(h, 'ln_f') @ w['wte.weight'].T
  return np.log(softmax(logits))[np.arange(len(fed)), tokens]


@pytest.mark.parametrize('prefix', ['', 'transformer.'])
def test_likelihood_is_that_of_an_independent_forward(tmp_path, prefix):
  rng = np.random.default_rng(0)
  arrays = weights(rng)
  named = {prefix + name: array for name, array in arrays.items()}
  named['lm_head.weight'] = arrays['wte.weight']
  path = write(tmp_path, named)
  model, params = par.pretrained.gpt2(path, length=8)
  x = rng.integers(V, size=(3, 8))
  want = np.stack([reference(arrays, tokens) for tokens in x])
  got = par.log_prob_terms(model, params, jnp.asarray(x, jnp.int32))
  np.testing.assert_allclose(got, want, atol=2e-5)
  template = jax.eval_shape(model.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, template)


def test_samples_and_files_are_exact(tmp_path):
  path = write(tmp_path, weights(np.random.default_rng(1)))
  model, params = par.pretrained.gpt2(path)
  keys = jax.random.split(jax.random.key(0), 3)
  slow = par.ancestral(model)(params, keys)
  cached = par.cached(model)(params, keys)
  np.testing.assert_array_equal(cached.x, slow.x)
  pair = par.codec(model, method='lanes')
  packed = pair.encode(params, slow.x)
  np.testing.assert_array_equal(pair.decode(params, packed).x, slow.x)


def test_an_untied_head_is_read(tmp_path):
  rng = np.random.default_rng(2)
  arrays = weights(rng)
  head = rng.normal(size=(V, N)).astype(np.float32)
  path = write(
    tmp_path, arrays | {'lm_head.weight': head}, tie_word_embeddings=False
  )
  model, params = par.pretrained.gpt2(path, length=2, start=0)
  np.testing.assert_array_equal(params['logits']['kernel'], head.T)
  np.testing.assert_array_equal(params['start'][0], arrays['wte.weight'][0])
  assert model.event.shape == (2,)


@pytest.mark.parametrize(
  ('changes', 'broken', 'lesson'),
  [
    ({'model_type': 'llama'}, {}, "model_type = 'llama'.*docs/own_model.md"),
    ({'activation_function': 'relu'}, {}, "'gelu_new'"),
    ({'n_layer': 0}, {}, 'n_layer = 0; expected a whole number above 0'),
    ({'n_layer': 3}, {}, 'no array h.2.ln_1.weight'),
    ({'n_layer': 1}, {}, '12 arrays that .* has not, such as h.1.attn'),
    ({'n_positions': 8}, {}, r'wpe.weight has shape \(9, 12\).*\(8, 12\)'),
    ({'bos_token_id': None}, {}, r'start=None: expected a token in 0\.\.10'),
  ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, broken, lesson):
  path = write(tmp_path, weights(np.random.default_rng(0)) | broken, **changes)
  with pytest.raises(ValueError, match=lesson):
    par.pretrained.gpt2(path)


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json is missing'):
    par.pretrained.gpt2(tmp_path)
  write(tmp_path, weights(np.random.default_rng(0)))
  with pytest.raises(ValueError, match='positions for 1 to 9 tokens'):
    par.pretrained.gpt2(tmp_path, length=10)
  file = tmp_path / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-9])
  with pytest.raises(ValueError, match='cannot be read as safetensors'):
    par.pretrained.gpt2(tmp_path)
  file.unlink()
  with pytest.raises(FileNotFoundError, match='safe_serialization'):
    par.pretrained.gpt2(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='is not JSON'):
    par.pretrained.gpt2(tmp_path)


@pytest.mark.slow
def test_likelihood_is_that_of_transformers(tmp_path: pathlib.Path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  sizes = {**config(), 'layer_norm_epsilon': 1e-5}
  network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
  network.eval().save_pretrained(tmp_path)
  model, params = par.pretrained.gpt2(tmp_path)
  x = np.random.default_rng(0).integers(V, size=(4, POSITIONS))
  fed = np.concatenate([np.full((4, 1), START), x[:, :-1]], 1)
  with torch.no_grad():
    terms = network(torch.tensor(fed)).logits.log_softmax(-1).numpy()
  want = np.take_along_axis(terms, x[..., None], -1)[..., 0]
  got = par.log_prob_terms(model, params, jnp.asarray(x, jnp.int32))
  np.testing.assert_allclose(got, want, atol=2e-5)
