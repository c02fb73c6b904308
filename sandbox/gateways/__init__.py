"""Emulators of SMS, push and payment providers: they store requests, show them, and inject faults."""
