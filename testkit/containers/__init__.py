"""The container files without a container engine: as Compose and Docker read them, and their processes run here."""
