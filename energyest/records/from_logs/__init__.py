"""From the arrays of a log to the columns of a trace: what is refused in them, what is doubted."""
