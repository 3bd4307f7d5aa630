"""Images: scikit-learn's digits, MNIST, Fashion-MNIST, and MNIST binarized.

Every image has event (H, W, 1). Where a validation split is not given by the
data it is the last sixth of the training images (the last 10,000 of MNIST's
60,000), and 'train+valid' is all of them, which is what the published numbers
on dynamically binarized MNIST are trained on.

  digits           1,797 of 8x8, values 0..16, inside scikit-learn
  mnist            60,000 and 10,000 of 28x28, grey levels 0..255
  fashion_mnist    the same of clothes
  mnist_static     bits, grey / 255 > 1/2
  mnist_dynamic    bits, Bernoulli(grey / 255): fresh for each training batch,
                   drawn once from a named seed for evaluation

The binarized MNIST of Larochelle and Murray is `bmnist_fixed`, in binary.py.
"""

import hashlib

import numpy as np

from parallel_ar.data import catalogue, dataset, files
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

# The digits come in the order in which people wrote them, so they are permuted
# before they are split; the split is part of every number on them.
_DIGITS_BOUNDS = {
  'train': (0, 1297),
  'valid': (1297, 1497),
  'test': (1497, 1797),
  'train+valid': (0, 1497),
}
_DIGITS_SHA256 = (
  '8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3'
)


def digits(
  split: str, data_dir: PathLike | None = None, *, labels: bool = False
) -> Dataset:
  """Handwritten digits of 8x8 pixels, values 0..16: 1297 / 200 / 300 images.

  The split is a fixed permutation of the 1,797 images, cut at 1297 and 1497.

  Args:
    split: 'train', 'valid', 'test' or 'train+valid'.
    data_dir: not needed; the images are inside scikit-learn.
    labels: whether `context` holds the digit's class, int32[N] in 0..9.

  Returns:
    A Dataset with event (8, 8, 1) and 17 values.

  Raises:
    ModuleNotFoundError: scikit-learn is not installed.
    ValueError: no such split, or the installed images are others.

  References:
    Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI
    machine learning repository, 1998.
  """
  del data_dir
  dataset.check_split('digits', split)
  try:
    from sklearn import datasets  # optional, and slow to import
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "The 'digits' data is inside scikit-learn, which is not installed. "
      'Install the extra that has it, pip install parallel_ar[data], or '
      'choose a synthetic source such as markov.'
    ) from error
  bunch = datasets.load_digits()
  x = bunch.images.astype(np.uint8)[..., None]
  if hashlib.sha256(x.tobytes()).hexdigest() != _DIGITS_SHA256:
    raise files.WrongFileError(
      'The digits inside the installed scikit-learn are not the 1,797 images '
      f'this split was made for: found shape {list(x.shape)}. Install another '
      'version of scikit-learn.'
    )
  start, stop = _DIGITS_BOUNDS[split]
  order = dataset.random_state('digits').permutation(len(x))[start:stop]
  context = bunch.target[order].astype(np.int32) if labels else None
  return Dataset('digits', split, x[order], 17, context)


def mnist(
  split: str,
  data_dir: PathLike | None = None,
  *,
  labels: bool = False,
  verify: bool = True,
) -> Dataset:
  """MNIST, grey levels 0..255: 50,000 / 10,000 / 10,000 images.

  Args:
    split: 'train', 'valid' (the last 10,000 of the training files), 'test', or
      'train+valid' (all 60,000).
    data_dir: directory with the idx files, in mnist/ or directly.
    labels: whether `context` holds the class, int32[N] in 0..9.
    verify: whether to compare the files' sha256 with MNIST's own; False reads
      any other data set in the same files (KMNIST, EMNIST), whose classes may
      be others: those of EMNIST's letters are 1..26. `datasets.check_fit`
      compares them with the model's.

  Returns:
    A Dataset with event (28, 28, 1) and 256 values.

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split.
  """
  return _idx_images('mnist', split, data_dir, labels, verify)


def fashion_mnist(
  split: str,
  data_dir: PathLike | None = None,
  *,
  labels: bool = False,
  verify: bool = True,
) -> Dataset:
  """Fashion-MNIST, grey levels 0..255; arguments and splits as for `mnist`."""
  return _idx_images('fashion_mnist', split, data_dir, labels, verify)


def mnist_static(
  split: str,
  data_dir: PathLike | None = None,
  *,
  labels: bool = False,
  verify: bool = True,
) -> Dataset:
  """MNIST binarized by x = 1[grey / 255 > 1/2]; arguments as for `mnist`.

  Its likelihoods are far better than those of the other binarizations and
  cannot be compared with them.
  """
  dataset.check_split('mnist_static', split)
  grey = mnist(split, data_dir, labels=labels, verify=verify)
  x = dataset.threshold(grey.x)
  return Dataset('mnist_static', split, x, 2, grey.context)


def mnist_dynamic(
  split: str,
  data_dir: PathLike | None = None,
  *,
  labels: bool = False,
  verify: bool = True,
  evaluation_seed: int = dataset.EVALUATION_SEED,
) -> Dataset:
  """MNIST binarized by x ~ Bernoulli(grey / 255); arguments as for `mnist`.

  Args:
    split: training splits keep their grey levels (`binarize` is 'dynamic') for
      the pipeline to draw from; 'valid' and 'test' are drawn here, once.
    data_dir: directory with the idx files, in mnist/ or directly.
    labels: whether `context` holds the class.
    verify: whether to compare the files' sha256 with MNIST's own.
    evaluation_seed: of the one draw of an evaluation split. On 10,000 images
      another seed moves the mean by about 0.07 nats.

  Returns:
    A Dataset with event (28, 28, 1) and 2 values.
  """
  dataset.check_split('mnist_dynamic', split)
  grey = mnist(split, data_dir, labels=labels, verify=verify)
  result = Dataset(
    'mnist_dynamic', split, grey.x, 2, grey.context, binarize='dynamic'
  )
  if split in ('valid', 'test'):
    return dataset.binarize_once(result, evaluation_seed)
  return result


def _idx_images(
  name: str,
  split: str,
  data_dir: PathLike | None,
  labels: bool,
  verify: bool,
) -> Dataset:
  """A split of four idx files: images and labels, for training and test."""
  dataset.check_split(name, split)
  stem = 't10k' if split == 'test' else 'train'
  path, images = _idx(name, f'{stem}-images-idx3-ubyte', 3, data_dir, verify)
  first_valid = len(images) - len(images) // 6
  rows = {
    'train': slice(0, first_valid),
    'valid': slice(first_valid, None),
  }.get(split, slice(None))
  context = None
  try:
    _, classes = _idx(name, f'{stem}-labels-idx1-ubyte', 1, data_dir, verify)
  except files.MissingFileError:
    if labels:  # images alone need none
      raise
    classes = None
  if classes is not None and len(classes) != len(images):
    raise files.WrongFileError(
      f'{path} has {len(images)} images, but its labels are {len(classes)}; '
      f'expected as many. {files.advice(name, data_dir)}'
    )
  if labels:
    context = classes[rows].astype(np.int32)
  return Dataset(name, split, images[rows][..., None], 256, context)


def _idx(
  folder: str,
  name: str,
  ndim: int,
  data_dir: PathLike | None,
  verify: bool,
):
  """(path, array) of one idx file, whose digest is checked last.

  A truncated file should be called truncated, which says more than a digest.
  """
  path = files.find(folder, (name, name.replace('-idx', '.idx')), data_dir)
  content = files.read(path)
  array = files.parse_idx(path, content, ndim)
  if verify:
    files.verify(path, content, catalogue.digests(folder, name), folder)
  return path, array
