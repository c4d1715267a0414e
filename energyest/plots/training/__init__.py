"""Pictures of one training: its trace, and an estimate of what it costs."""
