"""Settings: the engine's sections, the register of all others, and the loader."""

from backline.settings.base import Section, register
from backline.settings.core import (
    DEFAULT_RETRY_POLICIES,
    AlertSettings,
    ChannelName,
    JobDefaults,
    JobSettings,
    LaneSettings,
    LaneTriggerSettings,
    OutboxSettings,
    RetrySettings,
    Settings,
    WatchSettings,
)
from backline.settings.loader import ROOT, config_file, load, resolve_folder, settings

__all__ = [
    "DEFAULT_RETRY_POLICIES", "ROOT", "AlertSettings", "ChannelName", "JobDefaults", "JobSettings", "LaneSettings", "LaneTriggerSettings",
    "OutboxSettings", "RetrySettings", "Section", "Settings", "WatchSettings", "config_file", "load", "register", "resolve_folder", "settings",
]  # fmt: skip
