"""The parts that all adapters of training frameworks share."""
