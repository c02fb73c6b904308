"""Settings: the engine's sections, the register of all others, and the loader."""

from backline.settings.base import Section, register
from backline.settings.core import (
    CHANNELS,
    DEFAULT_RETRY_POLICIES,
    AlertSettings,
    ChannelName,
    JobDefaults,
    JobSettings,
    LaneSettings,
    LaneTriggerSettings,
    OutboxSettings,
    RetrySettings,
    ScheduledRetry,
    Settings,
    WatchSettings,
)
from backline.settings.loader import ROOT, config_file, load, resolve_folder, settings

__all__ = [
    "CHANNELS", "DEFAULT_RETRY_POLICIES", "ROOT", "AlertSettings", "ChannelName", "JobDefaults", "JobSettings", "LaneSettings", "LaneTriggerSettings",
    "OutboxSettings", "RetrySettings", "ScheduledRetry", "Section", "Settings", "WatchSettings", "config_file", "load", "register", "resolve_folder", "settings",
]  # fmt: skip
