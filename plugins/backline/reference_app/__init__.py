"""The reference app: tables of a small shop (schema `app`), with made data, for every job to run on."""

from __future__ import annotations

from backline.reference_app.schema import apply_schema
from backline.reference_app.seeding import SeedResult, invariant_violations, seed

__all__ = ["SeedResult", "apply_schema", "invariant_violations", "seed"]
