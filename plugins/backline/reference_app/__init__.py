"""The reference app: the tables of a small shop (schema `app`) with generated data, for every job to run on."""

from __future__ import annotations

from backline.reference_app.seeding import SeedResult, apply_schema, invariant_violations, seed

__all__ = ["SeedResult", "apply_schema", "invariant_violations", "seed"]
