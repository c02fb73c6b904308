"""A small shop with subscribers, on a real database."""

from __future__ import annotations

from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import DictRow, dict_row

from backline.subscriptions.process_single_subscription import Renewal, renew
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration import shop

NOW = datetime(2026, 3, 1, tzinfo=UTC)
"""When the tests' renewals run: the first moment of a day in UTC."""
TODAY = NOW.date()
LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG = SubscriptionSettings()


class Shop(shop.Shop):
    """The shop with subscribers, on a connection of its own; `mark` separates what several tests do on one database."""

    def __init__(self, dsn: str, mark: str = "shop") -> None:
        self.dsn = dsn
        self.prefix = mark
        self.connection: psycopg.Connection[DictRow] = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        super().__init__(self.connection)
        self._users = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    sql = shop.Shop.execute
    value = shop.Shop.fetch_value

    def user(self, **changed: Any) -> int:
        self._users += 1
        email = f"{self.prefix}-{self._users}@{self.prefix}.example.com"
        return self.customer(**{"email": email, "zone": "UTC", "created_at": LONG_AGO, **changed})

    def product(self, stock: int = 100, **changed: Any) -> int:
        return super().product(stock, **{"name": "Coffee beans, 1 kg", "created_at": LONG_AGO, **changed})

    def subscription(self, next_on: date | None = TODAY, **changed: Any) -> int:  # type: ignore[override]
        """One that is due today, of a customer and a product of its own unless they are given."""
        user, product = changed.pop("user_id", None), changed.pop("product_id", None)
        return super().subscription(next_on, user or self.user(), product, **{"created_at": LONG_AGO, **changed})

    def renew(self, subscription_id: int, now: datetime = NOW, config: SubscriptionSettings = CONFIG) -> Renewal:
        return renew(self.connection, subscription_id, now, config)

    def row(self, subscription_id: int) -> DictRow:
        [row] = self.sql("SELECT * FROM app.subscriptions WHERE id = %s", subscription_id)
        return row

    def orders(self, subscription_id: int) -> list[DictRow]:
        return self.sql("SELECT * FROM app.orders WHERE subscription_id = %s ORDER BY id", subscription_id)

    def product_of(self, subscription_id: int) -> DictRow:
        [row] = self.sql(
            "SELECT p.* FROM app.products AS p JOIN app.subscriptions AS s ON s.product_id = p.id WHERE s.id = %s",
            subscription_id,
        )
        return row

    def subscribers(self, count: int, *, products: int = 7, quantity: int = 2) -> list[int]:
        """So many subscriptions due today, each of a person of its own."""
        stock = count * quantity
        goods = [self.product(stock) for _ in range(products)]
        rows = self.sql(
            "WITH person AS (INSERT INTO app.users (email, name, country, state, created_at, verified_at)"
            " SELECT %s::text || n || '@example.com', 'Customer ' || n, 'DE', 'active', %s, %s FROM generate_series(1, %s) AS n RETURNING id)"
            " INSERT INTO app.subscriptions (user_id, product_id, quantity, unit_price_minor, currency, anchor_day, zone, started_on,"
            " next_on, created_at) SELECT id, (%s::bigint[])[1 + id %% %s], %s, 1000, 'EUR', %s, 'UTC', '2025-01-01', %s, %s"
            " FROM person ORDER BY id RETURNING id",
            f"{self.prefix}-many-", LONG_AGO, LONG_AGO, count, goods, products, quantity, TODAY.day, TODAY, LONG_AGO,
        )  # fmt: skip
        self.sql("ANALYZE app.subscriptions, app.products, app.users, app.orders")
        return [row["id"] for row in rows]
