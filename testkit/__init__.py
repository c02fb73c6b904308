"""What the benches and the faults both stand on: a copy of the stack of their own, programs, processes, ports."""
