from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from backline.matching.settings import MatchingSettings
from backline.orders.settings import OrderSettings


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"payment_missing_again_hours": 24.0}, "must grow in this order"),
        ({"payment_timeout_hours": 48.0}, "must grow in this order"),
        ({"review_until_days": 7.0}, "review_until_days must be more than review_days"),
        ({"order_url": "http://shop.example/orders"}, "with {order} in it once"),
        ({"order_url": "ftp://shop.example/{order}"}, "must be a URL, http or https"),
        ({"charging": "module.only"}, "charging"),
        ({"stuck_hours": {"delivered": 1.0}}, "stuck_hours"),
    ],
)
def test_contradictory_settings_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        OrderSettings(**given)


def test_weights_must_add_up_to_100() -> None:
    with pytest.raises(ValidationError, match="must add up to 100, not 110"):
        MatchingSettings(weights={"price": 50})
