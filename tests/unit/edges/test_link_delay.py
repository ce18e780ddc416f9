"""The delay of a link, from round trips."""

import pytest

from stage_worker.edges.link_delay import one_way


def test_a_steady_links_delay_is_half_a_round_trip() -> None:
    assert one_way([0.1] * 60) == pytest.approx(0.05)


def test_messages_that_wait_for_a_lost_one_count_but_a_single_one_does_not() -> None:
    """A loss delays all messages behind it, the first one most."""
    late = [0.1 + delay for delay in (0.13, 0.11, 0.09, 0.07, 0.05, 0.03, 0.01)]
    assert one_way([0.1] * 53 + late) == pytest.approx(0.05 + 0.1, abs=0.02)
    assert one_way([0.1] * 59 + [3.0]) == pytest.approx(0.05)
