"""Templates to text and HTML."""
