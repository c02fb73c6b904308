"""The settings of preferences: section [preferences] of backline.toml, where each is explained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backline.settings.base import Section, register
from backline.settings.core import ChannelName

Topic = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
_TIME_OF_DAY = r"([01]\d|2[0-3]):[0-5]\d"


@register("preferences")
class PreferenceSettings(Section):
    """What holds for recipients who have not said otherwise."""

    topics: dict[Topic, str] = Field(default_factory=lambda: {"newsletter": "Newsletter"})
    quiet_hours: dict[ChannelName, Annotated[str, Field(pattern=rf"^{_TIME_OF_DAY}-{_TIME_OF_DAY}$")]] = Field(
        default_factory=dict
    )
    daily_limit: dict[ChannelName, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)
