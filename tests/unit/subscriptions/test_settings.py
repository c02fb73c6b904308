from __future__ import annotations

import pytest
from pydantic import ValidationError

from backline.subscriptions.settings import SubscriptionSettings


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("order_url", "/orders/{order}", "must be a URL, http or https"),
        ("order_url", "https://shop.example/orders", "with {order} in it once"),
        ("manage_url", "javascript:alert(1)", "must be a URL, http or https"),
        ("chunk_size", 0, "greater than or equal to 1"),
        ("out_of_stock_retry_days", 31, "less than or equal to 30"),
    ],
)
def test_a_wrong_value_is_named_with_its_correction(key: str, value: object, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SubscriptionSettings(**{key: value})
    [error] = caught.value.errors()
    assert error["loc"] == (key,)
    assert problem in error["msg"]
