"""The message types. A module registers its types when it is imported; `registry` imports those that are needed."""
