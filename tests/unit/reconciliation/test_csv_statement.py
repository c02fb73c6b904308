"""A provider's statement as exported: what can be read, and the errors for what cannot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from backline.errors import InvalidInput
from backline.payments.provider import PaymentState, ProviderPayment
from backline.reconciliation.csv_statement import CsvStatement

SINCE, UNTIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
HEAD = "id,amount_minor,currency,status,created_at"


def read(tmp_path: Path, text: str) -> list[ProviderPayment]:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    return list(CsvStatement(path).list_payments(SINCE, UNTIL))


def test_an_export_of_the_dashboard_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "\ufeffid,Created date (UTC),Amount,Amount Refunded,Currency,Status,order_id (metadata)\r\n"
        "pi_1,2026-03-01 18:30:00,72.80,0.50,eur,Paid,17\r\n\r\n"
        "pi_2,2026-03-01 18:31,1500,0,jpy,requires_action,\r\n",
    )
    assert found == [
        ProviderPayment("pi_1", 7280, "EUR", PaymentState.CAPTURED, datetime(2026, 3, 1, 18, 30, tzinfo=UTC), 50, 17),
        ProviderPayment("pi_2", 1500, "JPY", PaymentState.REQUIRES_ACTION, datetime(2026, 3, 1, 18, 31, tzinfo=UTC)),
    ]


def test_only_the_window_is_listed(tmp_path: Path) -> None:
    times = [
        "2026-02-28T23:59:59Z",
        "2026-03-01T00:00:00Z",
        "1772409599",
        "2026-03-02T01:59:59+02:00",
        "2026-03-02T00:00:00Z",
    ]
    found = read(tmp_path, "\n".join([HEAD, *(f"pi_{n},1,EUR,succeeded,{time}" for n, time in enumerate(times))]))
    assert [one.reference for one in found] == ["pi_1", "pi_2", "pi_3"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (",1,EUR,succeeded,2026-03-01", "column 'id': is empty"),
        ("pi_1,1.5,EUR,succeeded,2026-03-01", "'1.5' is not a whole number of minor units of EUR"),
        ("pi_1,-1,EUR,succeeded,2026-03-01", "'-1' is not a whole number"),
        ("pi_1,NaN,EUR,succeeded,2026-03-01", "'NaN' is not an amount"),
        ("pi_1,Infinity,EUR,succeeded,2026-03-01", "'Infinity' is not an amount"),
        ("pi_1,,EUR,succeeded,2026-03-01", "column 'amount_minor': '' is not an amount"),
        ("pi_1,1,EURO,succeeded,2026-03-01", "'EURO' is not an ISO 4217 code"),
        ("pi_1,1,EUR,won,2026-03-01", "column 'status': 'won' is none of: captured"),
        ("pi_1,1,EUR,succeeded,yesterday", "column 'created_at': 'yesterday' is not a time"),
        ("pi_1", "column 'created_at': '' is not a time"),
    ],
)
def test_an_invalid_value_is_named_with_its_line(line: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, f"{HEAD}\npi_0,1,EUR,succeeded,2026-03-01\n{line}\n")
    assert str(caught.value).startswith("file: list.csv, line 3, ")
    assert problem in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"list\.csv has no column 'currency'"):
        read(tmp_path, "id,amount,status,created\n")


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.csv does not exist"):
        list(CsvStatement(tmp_path / "none.csv").list_payments(SINCE, UNTIL))
    (tmp_path / "list.csv").write_bytes(b"id,amount\n\xff\xfe")
    with pytest.raises(InvalidInput, match="is not CSV in UTF-8"):
        list(CsvStatement(tmp_path / "list.csv").list_payments(SINCE, UNTIL))
