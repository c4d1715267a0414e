"""Turn a log's arrays into columns of a trace: refuse impossible values, doubt unlikely ones."""
