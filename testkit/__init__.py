"""Test equipment shared by demo, bench, chaos and the tests: a copy of the stack, external programs, processes, clients."""
