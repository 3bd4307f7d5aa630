"""Orders as ranks: what each constructor means, and what it refuses."""

import numpy as np
import pytest

from parallel_ar import order


class TestConstructors:
  def test_raster_counts_row_by_row(self):
    rank = order.raster((2, 3))
    assert rank.dtype == np.int32
    np.testing.assert_array_equal(rank, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(order.raster(3), [0, 1, 2])

  def test_reverse_is_an_involution_that_keeps_ties(self):
    rank = order.groups([[0, 1], [1, 2]])
    np.testing.assert_array_equal(order.reverse(rank), [[2, 1], [1, 0]])
    np.testing.assert_array_equal(order.reverse(order.reverse(rank)), rank)

  def test_permutation_draws_positions_in_turn(self):
    rank = order.permutation([2, 0, 1], 3)
    np.testing.assert_array_equal(rank, [1, 2, 0])
    np.testing.assert_array_equal(order.slots(rank), [2, 0, 1])

  def test_random_is_a_total_order_fixed_by_its_seed(self):
    rank = order.random((3, 4), 7)
    np.testing.assert_array_equal(np.sort(rank.reshape(-1)), np.arange(12))
    np.testing.assert_array_equal(rank, order.random((3, 4), 7))
    assert (rank != order.random((3, 4), 8)).any()

  def test_groups_makes_any_labels_dense(self):
    rank = order.groups(np.array([[0.5, -1.0], [0.5, 3.0]]))
    np.testing.assert_array_equal(rank, [[1, 0], [1, 2]])
    np.testing.assert_array_equal(order.groups(['b', 'a', 'b']), [1, 0, 1])

  def test_blocks_may_end_with_a_shorter_one(self):
    np.testing.assert_array_equal(order.blocks(5, 2), [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(order.blocks((2, 2), 4), [[0, 0], [0, 0]])


class TestProperties:
  def test_depth_counts_ranks(self):
    assert order.depth(order.raster((3, 3))) == 9
    assert order.depth(order.blocks((3, 3), 4)) == 3
    assert order.depth([0]) == 1

  def test_slots_keep_ties_in_raster_order(self):
    np.testing.assert_array_equal(order.slots([[1, 0], [0, 1]]), [1, 2, 0, 3])

  def test_group_size_is_none_for_unequal_groups(self):
    assert order.group_size(order.raster(4)) == 1
    assert order.group_size(order.blocks(6, 3)) == 3
    assert order.group_size(order.blocks(5, 2)) is None


class TestErrors:
  @pytest.mark.parametrize('shape', [(), (0,), (3, -1)])
  def test_a_shape_needs_positive_axes(self, shape):
    with pytest.raises(ValueError, match='at least one axis and positive'):
      order.raster(shape)

  @pytest.mark.parametrize('positions', [[0, 0, 2], [0, 1], [1, 2, 3]])
  def test_a_permutation_holds_each_position_once(self, positions):
    with pytest.raises(ValueError, match=r'each of 0\.\.2 once.*got'):
      order.permutation(positions, 3)

  def test_a_block_is_not_empty(self):
    with pytest.raises(ValueError, match='at least one position; got size 0'):
      order.blocks(4, 0)

  def test_wrong_shape_says_which_and_what_to_use(self):
    with pytest.raises(ValueError, match=r'\(4,\).*\(2, 2\).*order\.raster'):
      order.check(np.arange(4), (2, 2))

  def test_fractions_are_no_ranks(self):
    with pytest.raises(ValueError, match=r'dtype float64.*order\.groups'):
      order.check(np.array([0.0, 1.0]), 2)

  @pytest.mark.parametrize('rank', [[0, 2, 3], [1, 2, 3], [-1, 0, 1]])
  def test_a_gap_is_shown_and_its_cure_named(self, rank):
    with pytest.raises(ValueError, match=r'without a gap.*order\.groups'):
      order.check(np.array(rank), 3)

  def test_check_returns_int32(self):
    rank = order.check(np.array([1, 0], np.int64), 2)
    assert rank.dtype == np.int32


class TestTie:
  def test_runs_of_slots_are_drawn_together(self):
    rank = order.permutation([3, 0, 2, 1], (2, 2))
    np.testing.assert_array_equal(order.tie(rank, [1, 3]), [[1, 1], [1, 0]])
    np.testing.assert_array_equal(order.tie(rank, [1] * 4), rank)
    blocks = order.tie(order.raster(6), [2, 2, 2])
    np.testing.assert_array_equal(blocks, order.blocks(6, 2))

  @pytest.mark.parametrize('sizes', [[], [2, 1], [5, -1], [4, 0]])
  def test_sizes_are_positive_and_sum_to_the_positions(self, sizes):
    with pytest.raises(ValueError, match='sum to the 4 positions'):
      order.tie(order.raster(4), sizes)


class TestKnownFirst:
  def test_both_parts_keep_their_order(self):
    rank = order.permutation([4, 2, 0, 3, 1], (5,))
    known = [False, True, False, True, False]
    got = order.known_first(rank, known)
    np.testing.assert_array_equal(order.slots(got), [3, 1, 4, 2, 0])

  def test_nothing_or_everything_known_changes_nothing(self):
    rank = order.random((2, 3), 1)
    for known in (np.zeros((2, 3)), np.ones((2, 3))):
      np.testing.assert_array_equal(order.known_first(rank, known), rank)

  def test_shapes(self):
    with pytest.raises(ValueError, match=r'known has shape \(2,\)'):
      order.known_first(order.raster(3), [True, False])


class TestMultiscale:
  def test_three_groups_an_octave(self):
    want = [[0, 5, 2, 5], [6, 4, 6, 4], [3, 5, 1, 5], [6, 4, 6, 4]]
    np.testing.assert_array_equal(order.multiscale((4, 4)), want)

  @pytest.mark.parametrize('groups', [1, 2, 3])
  def test_depth_is_logarithmic(self, groups):
    for side, octaves in ((2, 1), (4, 2), (8, 3), (28, 5)):
      most = 1 + groups * octaves
      assert order.depth(order.multiscale((side, side), groups)) == most
      rank = order.multiscale((side, side - 1, 2), groups)
      order.check(rank, (side, side - 1, 2))
      assert order.depth(rank) <= most
      np.testing.assert_array_equal(rank[..., 0], rank[..., 1])

  def test_bad_arguments(self):
    for shape, groups in (((4, 4), 4), ((4,), 2)):
      with pytest.raises(ValueError, match='1, 2 or 3 groups an octave'):
        order.multiscale(shape, groups)


class TestScales:
  def test_halving_is_one_group_an_octave(self):
    for shape in ((8, 8, 1), (7, 5, 2), (28, 28)):
      strides = order.halvings(shape)
      np.testing.assert_array_equal(
        order.scales(shape, strides), order.multiscale(shape, 1)
      )

  def test_strides_that_skip(self):
    want = [[0, 2, 1], [2, 2, 2], [1, 2, 1], [2, 2, 2]]
    np.testing.assert_array_equal(order.scales((4, 3), (4, 2, 1)), want)
    want = [[0, 1, 1], [1, 1, 1]]
    np.testing.assert_array_equal(order.scales((2, 3), (4, 1)), want)

  @pytest.mark.parametrize('strides', [(), (2,), (4, 3, 1), (1, 2, 1), (1, 1)])
  def test_strides_that_do_not_nest(self, strides):
    with pytest.raises(ValueError, match='each a divisor of the one before'):
      order.scales((4, 4), strides)

  def test_a_stride_too_many(self):
    with pytest.raises(ValueError, match='one adds no pixel'):
      order.scales((4, 4), (8, 4, 2, 1))
