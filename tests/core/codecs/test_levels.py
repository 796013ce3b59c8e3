import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.codecs.levels import optimal_levels, whole_levels
from cutlayer_core.codecs.radix import MAX_RADIX


def test_the_closed_form_solves_the_cubic_on_both_branches():
    u = np.geomspace(1e-6, 1e8, 100_001)
    assert u.min() < 27 / 4 < u.max()
    q = optimal_levels(u)
    assert (q > 1).all()
    assert np.abs((q - 1) ** 3 / (u * q) - 1).max() < 1e-10
    assert np.abs(optimal_levels(np.array([27 / 4])) - 4).max() < 1e-12


def test_nothing_to_quantize_needs_one_level():
    assert optimal_levels(np.zeros(1)) == 1


@given(st.fractions(0, 10**9))
def test_whole_levels_are_the_optimum_rounded_down(u):
    """Judged in whole numbers: the greatest Q of five significant bits, from 2 on, with (Q - 1)^3 <= u Q."""
    given_u = float(u)
    exact = given_u.as_integer_ratio()
    (levels,) = whole_levels(np.array([given_u]))
    fits = lambda q: (q - 1) ** 3 * exact[1] <= exact[0] * q  # noqa: E731
    slack = given_u * 1e-12 * levels  # a product of floats may round across the boundary, on all machines alike
    assert levels == 2 or (levels - 1) ** 3 <= given_u * levels + slack
    step = 1 << max(int(levels).bit_length() - 5, 0)
    assert levels % step == 0
    above = int(levels) + step
    assert levels == MAX_RADIX or not fits(above) or (above - 1) ** 3 >= given_u * above - slack


def test_levels_are_bounded():
    np.testing.assert_array_equal(whole_levels(np.array([0.0, 1e300])), [2, MAX_RADIX])
