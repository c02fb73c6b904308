"""Template filters: amounts, dates and times in the format of a locale (CLDR, by babel, imported on first use)."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from backline.caching import cache_short_texts
from backline.money import minor_unit_digits
from backline.rendering.settings import TemplateSettings
from backline.settings import settings

if TYPE_CHECKING:
    from babel import Locale

NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE = "\u202f", "\u00a0"
"""The narrow one is replaced by the other, because some fonts of mail programs lack it."""


def money(amount: int, currency: str, locale: str) -> str:
    """An amount, given in the currency's minor unit: 1250 in EUR is, for "de", 12,50 €."""
    from babel.numbers import format_currency, get_currency_precision

    digits = minor_unit_digits(str(currency))
    written = format_currency(
        Decimal(int(amount)).scaleb(-digits),
        str(currency),
        locale=_locale(locale),
        currency_digits=get_currency_precision(str(currency)) == digits,
        decimal_quantization=False,
    )
    return written.replace(NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE)


def rate(basis_points: int, locale: str) -> str:
    """A tax or discount rate, given in hundredths of a percent: 1950 is, for "de", 19,5 %."""
    from babel.numbers import format_percent

    written: str = format_percent(
        Decimal(int(basis_points)).scaleb(-4), locale=_locale(locale), decimal_quantization=False
    )
    return written.replace(NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE)


def country(code: str, locale: str) -> str:
    """The name of a country code (ISO 3166-1 alpha-2): DE is, for "en", Germany. An unknown code is returned unchanged."""
    return str(_locale(locale).territories.get(str(code), str(code)))


def day(value: date, locale: str) -> str:
    """A date: 22. November 2026."""
    from babel.dates import format_date

    return format_date(value, "long", locale=_locale(locale))


def timestamp(value: datetime, zone: str | None, locale: str) -> str:
    """A time in `zone` (IANA; None: `templates.time_zone`), with the zone's name: 22. November 2026, 19:30 MEZ."""
    from babel.dates import format_date, format_time

    babel_locale = _locale(locale)
    local = value.astimezone(ZoneInfo(str(zone or settings().section(TemplateSettings).time_zone)))
    clock = format_time(local, "short", tzinfo=local.tzinfo, locale=babel_locale)
    clock = clock.replace(NARROW_NO_BREAK_SPACE, NO_BREAK_SPACE)
    return f"{format_date(local, 'long', locale=babel_locale)}, {clock} {_zone_name(local, babel_locale)}"


def _zone_name(local: datetime, locale: Locale) -> str:
    from babel.dates import get_timezone_name

    name = get_timezone_name(local, "short", locale=locale)
    if name[0] not in "+-":
        return name
    # This language has no abbreviation for the zone: "+0530" is written as "UTC+5:30".
    minutes = name[3:].replace("00", "")
    return f"UTC{name[0]}{int(name[1:3])}{':' * bool(minutes)}{minutes}"


@cache_short_texts(64)
def _locale(tag: str) -> Locale:
    """The locale, or that of its language, or of `templates.language`: CLDR does not have every language."""
    from babel import Locale, UnknownLocaleError

    for name in (tag, tag.partition("-")[0], settings().section(TemplateSettings).language):
        with suppress(UnknownLocaleError, ValueError):
            return Locale.parse(name, sep="-")
    return Locale("en")
