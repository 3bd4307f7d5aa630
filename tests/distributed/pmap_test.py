"""The Python of docs/scaling.md runs; its pmap gives the loss of the mesh."""

import pathlib
import re

import jax
import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'scaling.md'
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize('block', BLOCKS, ids=range(len(BLOCKS)))
def test_block(block):
  names = {}
  exec(compile(block, 'docs/scaling.md', 'exec'), names)
  if 'legacy' in names:
    assert names['devices'] == 8
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6),
      names['old_gradient'],
      names['gradient'],
    )


def test_pmap_is_there():
  assert any('jax.pmap' in block for block in BLOCKS)
