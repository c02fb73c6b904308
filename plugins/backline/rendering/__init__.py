"""Renders templates to text, HTML and PDF."""
