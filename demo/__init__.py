"""The demo: named checks that do real work through a running stack. `./backline demo` runs it."""
