"""A project: its settings, its folder, its mesh. Knows files by name, and no orchestrator."""
