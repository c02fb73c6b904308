"""The reference app: tables of a small shop (schema `app`), with made data, for every job to run on."""

from __future__ import annotations

from backline.reference_app.schema import apply
from backline.reference_app.seeding import Seeded, broken_rules, seed

__all__ = ["Seeded", "apply", "broken_rules", "seed"]
