"""The message types, one module for each kin of them. Importing this package registers them all."""

from __future__ import annotations

from backline.messages.types import commerce as commerce
from backline.messages.types import general as general
from backline.messages.types import identity as identity
from backline.messages.types import newsletter as newsletter
from backline.messages.types import reports as reports
