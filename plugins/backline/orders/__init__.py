"""Orders: paid for and confirmed step by step, taken back step by step when that fails, and reminded of."""
