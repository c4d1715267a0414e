"""What the adapters of training frameworks have in common, whatever the framework."""
