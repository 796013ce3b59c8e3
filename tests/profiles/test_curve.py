import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from cutlayer_core.errors import UserError
from cutlayer_profiles.curve import Curve, Samples

TIMES = np.array([0.0, 0.1, 0.2, 0.35, 0.4, 1.0])
WATTS = np.array([1.0, 3.0, 2.0, 2.0, 5.0, 4.0])


def curve(**options):
    return Curve(Samples(TIMES, WATTS), period_s=0.1, **options)


@given(st.floats(0, 1), st.floats(0, 1))
def test_energy_between_any_two_moments_is_the_integral_of_the_line_through_the_samples(one, other):
    begin, end = sorted((one, other))
    inner = [each for each in TIMES if begin < each < end]
    wanted, _ = quad(lambda at: np.interp(at, TIMES, WATTS), begin, end, points=inner or None, epsabs=1e-12)
    assert curve().energy_j(begin, end) == pytest.approx(wanted, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9))
def test_intervals_side_by_side_add_up_to_the_whole(moments):
    edges = np.array(sorted(moments))
    assert curve().energy_j(edges[:-1], edges[1:]).sum() == pytest.approx(
        curve().energy_j(edges[0], edges[-1]), abs=1e-9
    )


def test_a_counter_is_read_by_differences():
    counted = Curve(Samples(np.array([0.0, 1.0, 2.0]), np.array([100.0, 104.0, 105.0]), counts=True), period_s=1.0)
    assert counted.energy_j(0.0, 2.0) == 5
    assert counted.energy_j(0.5, 1.5) == pytest.approx(2.5)


def test_a_counter_that_went_back_says_nothing():
    with pytest.raises(UserError, match="the counter went back"):
        Curve(Samples(np.array([0.0, 1.0]), np.array([100.0, 3.0]), counts=True), period_s=1.0)


def test_the_power_inside_of_intervals_is_that_of_the_readings_there():
    begin, end = np.array([0.05, 0.3]), np.array([0.25, 0.5])
    assert list(curve().power_w(begin, end)) == [3.0, 2.0, 2.0, 5.0]
    counted = Curve(Samples(TIMES, np.cumsum(WATTS), counts=True), 0.1)
    assert list(counted.power_w(begin, end)) == pytest.approx([20.0, 100.0]), "between two readings in one interval"
    assert len(curve().power_w(np.array([]), np.array([]))) == 0


def test_nothing_is_said_of_times_without_samples():
    assert curve().energy_j(-0.05, 0.1) == curve().energy_j(0.0, 0.1), "up to a period outside"
    with pytest.raises(UserError, match="let the meter run longer on both sides"):
        curve().energy_j(-0.2, 0.1)
    with pytest.raises(UserError, match="two finite samples whose times rise, found 1"):
        Curve(Samples(TIMES[:1], WATTS[:1]), 0.1)
    with pytest.raises(UserError, match="two finite samples whose times rise"):
        Curve(Samples(TIMES, np.where(WATTS > 4, np.nan, WATTS)), 0.1)


def test_gaps_and_samples_are_counted_by_interval():
    assert list(curve().samples_in([0.0, 0.15], [0.25, 1.0])) == [3, 4]
    assert curve().gap_s([0.0, 0.5, 0.9], [0.4, 0.7, 2.0]) == pytest.approx([0.0, 0.2, 0.1])


def test_a_mean_belongs_to_the_middle_of_its_window():
    shifted = curve(window_s=0.2)
    assert shifted.span_s == (-0.1, 0.9)
    assert shifted.energy_j(0.0, 0.5) == pytest.approx(curve().energy_j(0.1, 0.6))
