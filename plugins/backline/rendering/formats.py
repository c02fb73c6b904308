"""Amounts, days and times as people of a language write them (CLDR, by babel): filters for templates.

babel is imported when the first of them is used: who formats nothing does not pay for it.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from backline.rendering.settings import TemplateSettings
from backline.settings import settings

if TYPE_CHECKING:
    from babel import Locale

NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE = "\u202f", "\u00a0"
"""Both do not break; the narrow one is a box in mail programs whose font lacks it."""

# fmt: off
MINOR_UNIT_DIGITS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV",
                     "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
# fmt: on
"""Currencies whose smallest unit is not a hundredth (ISO 4217, list one). CLDR's digits are customs of display."""


def money(amount: int, currency: str, locale: str) -> str:
    """An amount, given in the currency's smallest unit: 1250 in EUR is, for "de", 12,50 €."""
    from babel.numbers import format_currency, get_currency_precision

    digits = MINOR_UNIT_DIGITS.get(str(currency), 2)
    written = format_currency(
        Decimal(int(amount)).scaleb(-digits),
        str(currency),
        locale=_locale(locale),
        currency_digits=get_currency_precision(str(currency)) == digits,
        decimal_quantization=False,
    )
    return written.replace(NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE)


def rate(basis_points: int, locale: str) -> str:
    """A rate of tax or discount, given in hundredths of a percent: 1950 is, for "de", 19,5 %."""
    from babel.numbers import format_percent

    written: str = format_percent(
        Decimal(int(basis_points)).scaleb(-4), locale=_locale(locale), decimal_quantization=False
    )
    return written.replace(NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE)


def country(code: str, locale: str) -> str:
    """A country's name (ISO 3166-1 alpha-2): DE is, for "en", Germany. A code without one is shown as it is."""
    return str(_locale(locale).territories.get(str(code), str(code)))


def day(value: date, locale: str) -> str:
    """A day of the calendar: 22. November 2026."""
    from babel.dates import format_date

    return format_date(value, "long", locale=_locale(locale))


def timestamp(value: datetime, zone: str | None, locale: str) -> str:
    """A point in time as the clocks of a zone show it, the zone named: 22. November 2026, 19:30 MEZ.

    `zone` is an IANA name; None stands for the setting `templates.time_zone`.
    """
    from babel.dates import format_date, format_time

    known = _locale(locale)
    there = value.astimezone(ZoneInfo(str(zone or settings().section(TemplateSettings).time_zone)))
    clock = format_time(there, "short", tzinfo=there.tzinfo, locale=known).replace(
        NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE
    )
    return f"{format_date(there, 'long', locale=known)}, {clock} {_zone_name(there, known)}"


def _zone_name(there: datetime, locale: Locale) -> str:
    from babel.dates import get_timezone_name

    name = get_timezone_name(there, "short", locale=locale)
    if name[0] not in "+-":
        return name
    # No customary abbreviation in this language: "+0530" says little to most people.
    minutes = name[3:].replace("00", "")
    return f"UTC{name[0]}{int(name[1:3])}{':' * bool(minutes)}{minutes}"


@lru_cache(maxsize=64)
def _locale(tag: str) -> Locale:
    """The tag's locale, else that of its language alone."""
    from babel import Locale, UnknownLocaleError

    try:
        return Locale.parse(tag, sep="-")
    except UnknownLocaleError:
        return Locale.parse(tag.split("-", maxsplit=1)[0])
