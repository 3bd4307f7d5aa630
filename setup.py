r"""Packaging of parallel_ar.

What is needed to run is here, with lower bounds only. The versions that the
tests pass with, one set for each Python, are pinned in constraints.txt, and
with the sha256 of each file in requirements.lock, which run.sh installs:

  pip install -c constraints.txt \
      -e '.[data,plots,coding,quantization,export,safetensors,test,dev]'
"""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"^__version__ = '(.*)'$",
  (_ROOT / 'parallel_ar' / '__init__.py').read_text(encoding='utf-8'),
  re.MULTILINE,
)[1]

setuptools.setup(
  name='parallel_ar',
  version=_VERSION,
  description=(
    'Autoregressive models in JAX: every conditional in one pass, the exact'
    ' likelihood, and samplers that return the same integers for the same key'
  ),
  long_description=(_ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  author='The parallel_ar authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  packages=setuptools.find_packages(include=['parallel_ar', 'parallel_ar.*']),
  package_data={'parallel_ar': ['py.typed']},
  python_requires='>=3.11,<3.14',
  install_requires=[
    'absl-py>=2.1',
    'flax>=0.12.8',
    'grain>=0.2.18',
    'jax>=0.10.2',
    'ml_collections>=1.1.0',
    'numpy>=2.0',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'tensorboardX>=2.6.4',
    'tqdm>=4.66',
  ],
  extras_require={
    # Real images without a download, and the readers of MATLAB files.
    'data': ['scikit-learn>=1.5', 'scipy>=1.14'],
    # Sample grids, and the plots of experiments.
    'plots': ['matplotlib>=3.10', 'pillow>=11.0'],
    # The entropy coder behind lossless compression.
    'coding': ['constriction>=0.5.0'],
    # Arrays of 8 and 4 bits.
    'quantization': ['qwix>=0.1.8'],
    # Models as files that run without this library (jax.export).
    'export': ['flatbuffers>=24.3'],
    # Weights in the format of Hugging Face (`par.pretrained`).
    'safetensors': ['safetensors>=0.5'],
    # Working directories in a bucket, gs://...
    'gcs': ['gcsfs>=2026.1'],
    # Readers of data: Hugging Face's, TensorFlow Datasets (ArrayRecord is
    # grain's own).
    'datasets': ['datasets>=3.0'],
    # It reads without TensorFlow, and imports what it does not ask for.
    'tfds': ['tensorflow-datasets>=4.9.7', 'importlib_resources>=6.0'],
    # What from_equinox and from_haiku take.
    'equinox': ['equinox>=0.13'],
    'haiku': ['dm-haiku>=0.0.16'],
    # Accelerators: JAX's plugin, of the same version as JAX itself.
    'tpu': ['jax[tpu]>=0.10.2'],
    'cuda12': ['jax[cuda12]>=0.10.2'],
    'cuda13': ['jax[cuda13]>=0.10.2'],
    # XLA:TPU without a TPU, for `tpu_compile` and `plan --topology`: what
    # jax[tpu] of the pinned JAX asks for (0.0.42 for JAX 0.10).
    'tpu-compile': ['libtpu>=0.0.42'],
    'test': ['chex>=0.1.92', 'pytest>=9.0', 'pytest-xdist>=3.8'],
    'dev': ['mypy>=2.0', 'ruff>=0.15'],
    # Records of a run at Weights & Biases as well; no part of the lock.
    'wandb': ['wandb>=0.20'],
    # The site and the packages, made in an environment of their own, whose
    # lock is docs/requirements.lock.
    'docs': ['mkdocs-material>=9.7', 'mkdocstrings-python>=2.0', 'ruff>=0.15'],
    'release': ['build>=1.3', 'twine>=6.1'],
  },
  classifiers=[
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Typing :: Typed',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
