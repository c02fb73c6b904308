"""Invoices and credit notes: numbered without gaps, made into PDF files that can be made again."""
