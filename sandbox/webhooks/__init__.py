"""A webhook endpoint for development: takes what comes, shows it, and answers badly when it is told to."""
