"""Emulators of mail, SMS, push, payment and webhook services for development. Nothing under `plugins/` imports them."""
