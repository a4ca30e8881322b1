"""Values on a forest: as cheap as the cheapest of all there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from onnx_fp16fix.plan.exponents.forest import Floats, Link, Sum, Tie, cheapest

REACH = 3
"""Values from -3 to 3."""


def _asked(seed: int) -> tuple[dict[int, Floats], list[tuple[int, int, Link]]]:
    """Five unknowns in one tree or two, linked in every way."""
    random = np.random.default_rng(seed)

    def table() -> Floats:
        prices = random.integers(0, 12, 2 * REACH + 1).astype(np.float64)
        prices[random.random(len(prices)) < 0.15] = np.inf
        return prices

    links = list[tuple[int, int, Link]]()
    for below in range(1, 5):
        if random.random() < 0.85:
            above, weights = int(random.integers(below)), random.choice([-2, -1, 1, 2], 3).tolist()
            link = (
                Sum(*weights, table())
                if random.random() < 0.5
                else Tie(*weights[:2], float(random.integers(9)))
            )
            links.append((above, below, link))
    return {place: table() for place in range(5)}, links


def _price(values: tuple[int, ...], prices: dict[int, Floats], links: list[tuple[int, int, Link]]) -> float:
    total = sum(own[values[place] + REACH] for place, own in prices.items())
    for above, below, link in links:
        if isinstance(link, Tie):
            total += link.price * (link.factor * values[below] != link.over * values[above])
        else:
            third = -(link.factor * values[below] + link.over * values[above])
            fits = third % link.rest == 0 and abs(third // link.rest) <= REACH
            total += link.prices[third // link.rest + REACH] if fits else np.inf
    return float(total)


@pytest.mark.parametrize("seed", range(8))
def test_no_values_are_cheaper(seed: int) -> None:
    prices, links = _asked(seed)
    least = min(_price(values, prices, links) for values in product(range(-REACH, REACH + 1), repeat=5))
    found = cheapest(prices, links)
    if found is None:
        assert least == np.inf
    else:
        assert _price(tuple(found[place] for place in range(5)), prices, links) == least < np.inf


def test_a_link_that_closes_a_circle_is_left_out() -> None:
    prices = {0: np.array([0.0, 5, 9]), 1: np.array([9.0, 5, 0])}
    assert cheapest(prices, [(0, 1, Tie(1, 1, 1.0)), (0, 1, Tie(1, 1, 100.0))]) == {0: -1, 1: 1}
    assert cheapest(prices, [(0, 1, Tie(1, 1, 100.0)), (0, 1, Tie(1, 1, 1.0))]) in (
        {0: v, 1: v} for v in (-1, 0, 1)
    )
