"""The message types, grouped into modules. A module registers its types when it is imported."""

from __future__ import annotations

MODULES = {
    "commerce": (
        "order_confirmation",
        "order_reminder",
        "order_shipped",
        "order_status",
        "payment_failed",
        "payment_receipt",
        "subscription_renewal_reminder",
    ),
    "push": ("push",),
    "general": ("email", "templated_email", "urgent_email", "welcome"),
    "accounts": ("account_verification", "password_reset", "security_alert", "security_alert_admin"),
    "newsletter": ("newsletter",),
    "reports": ("report_approval_request", "report_approved", "report_ready", "report_rejected"),
    "sms": ("mfa_code", "sms", "templated_sms"),
    "webhooks": ("webhook",),
}
"""Module to its types, so that a task that needs one type loads only that module."""
