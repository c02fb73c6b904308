"""A small shop with subscribers, on a real database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier, Placeholder

from backline.subscriptions.renewal import Renewal, renew
from backline.subscriptions.settings import SubscriptionSettings

NOW = datetime(2026, 3, 1, tzinfo=UTC)
"""When the tests' renewals run: the first moment of a day in UTC."""
TODAY = NOW.date()
LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG = SubscriptionSettings()


class Shop:
    """Its tables, over one connection of the test's own; `mark` keeps apart what several tests do on one database."""

    def __init__(self, dsn: str, mark: str = "shop") -> None:
        self.dsn = dsn
        self.prefix = mark
        self.connection: psycopg.Connection[DictRow] = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def sql(self, query: LiteralString, *params: Any) -> list[DictRow]:
        cursor = self.connection.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: LiteralString, *params: Any) -> Any:
        [row] = self.sql(query, *params)
        [value] = row.values()
        return value

    def user(self, **changed: Any) -> int:
        self._made += 1
        return self._insert("users", {
            "email": f"{self.prefix}-{self._made}@{self.prefix}.example.com", "name": "Ann", "country": "DE", "zone": "UTC", "language": "en",
            "state": "active", "created_at": LONG_AGO, "verified_at": LONG_AGO, **changed,
        })  # fmt: skip

    def product(self, stock: int = 100, **changed: Any) -> int:
        self._made += 1
        made = self._insert("products", {
            "sku": f"{self.prefix}-{self._made}".upper(), "name": "Coffee beans, 1 kg", "stock": stock, "created_at": LONG_AGO, **changed,
        })  # fmt: skip
        if stock:
            self.sql(
                "INSERT INTO app.stock_movements (product_id, reason, quantity) VALUES (%s, 'received', %s)",
                made,
                stock,
            )
        return made

    def subscription(self, next_on: date | None = TODAY, **changed: Any) -> int:
        """One that is due today, of a person and a product of its own unless they are given."""
        anchor = next_on.day if next_on else 1
        return self._insert("subscriptions", {
            "user_id": changed.get("user_id") or self.user(), "product_id": changed.get("product_id") or self.product(),
            "quantity": 2, "unit_price_minor": 1000, "currency": "EUR", "anchor_day": anchor, "zone": "UTC",
            "started_on": date(2025, 1, 1) if anchor == 1 else date(2025, 1, anchor), "next_on": next_on, "created_at": LONG_AGO,
            **changed,
        })  # fmt: skip

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

    def messages(self, kind: str) -> list[DictRow]:
        return self.sql("SELECT * FROM backline.message WHERE type = %s ORDER BY id", kind)

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

    def _insert(self, table: LiteralString, values: Mapping[str, Any]) -> int:
        names = SQL(", ").join(map(Identifier, values))
        places = SQL(", ").join(map(Placeholder, values))
        query = SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(Identifier("app", table), names, places)
        [row] = self.connection.execute(query, values).fetchall()
        return int(row["id"])
