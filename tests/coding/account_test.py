"""Every bit of a file has a place."""

import numpy as np
import pytest

from parallel_ar import coding, likelihood, order
from parallel_ar.testing import conformance
from tests import toys

NET = toys.sigmoid_net((7,), rank=order.random((7,), 1), num_values=3)
CASE = conformance.make_case(NET, batch=5)
X = np.tile(CASE.x, (40, 1))


@pytest.mark.parametrize('method', ['cached', 'lanes', 'stream'])
def test_the_parts_are_what_they_say(method):
  data = coding.codec(NET, method=method, batch=3).encode(CASE.params, X)
  bill = coding.account(NET, CASE.params, data, X, batch=64)
  assert bill.total == 8 * len(data)
  assert sum(bill[:-1]) == pytest.approx(bill.total, abs=1e-6)
  bits = -np.asarray(likelihood.log_prob(NET, CASE.params, X)) / np.log(2)
  assert bill.model == pytest.approx(bits.sum(), rel=1e-6)
  assert bill.header == 8 * (10 + 2 + 1 + 2 + 20 + 15)
  assert abs(bill.frequencies) < 3 * X.size * 2**-16 / np.log(2) + 1e-3
  if method != 'stream':  # 16 bits to begin with and 4 for the length, a lane
    lanes = 3 * 7 if method == 'lanes' else 3
    assert 19 * lanes < bill.ends < 20 * lanes + 8
    assert abs(bill.coder) < 0.01 * bill.total
  else:
    assert bill.ends == 0 and 0 <= bill.coder < 64


def test_a_file_of_other_parameters_shows_in_the_rest():
  data = coding.codec(NET, batch=3).encode(CASE.params, X)
  wrong = {name: -p for name, p in CASE.params.items()}
  bill = coding.account(NET, wrong, data, X)
  assert abs(bill.coder) > 0.05 * bill.total


def test_no_events():
  data = coding.codec(NET).encode(CASE.params, X[:0])
  bill = coding.account(NET, CASE.params, data, X[:0])
  assert bill.total == bill.header and not any(bill[:2])


def test_refuses():
  data = coding.codec(NET, batch=3).encode(CASE.params, X)
  with pytest.raises(ValueError, match='has 200 events; got 5'):
    coding.account(NET, CASE.params, data, CASE.x)
  with pytest.raises(coding.BadFile, match='cut off'):
    coding.account(NET, CASE.params, data[:-3], X)
