"""The message types, one module for each kin of them. Importing this package registers them all."""

from __future__ import annotations

from backline.messages.types import general as general
