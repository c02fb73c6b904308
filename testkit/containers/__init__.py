"""The container files without a container engine: parsed by Compose and Docker, their processes run on this machine."""
