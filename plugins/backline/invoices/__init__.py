"""Invoices and credit notes: numbered without gaps, with PDF files that can be generated again byte for byte."""
