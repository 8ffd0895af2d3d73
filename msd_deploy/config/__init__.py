"""Settings: frozen dataclasses per subject, and how options, TOML and JSON fill them."""
