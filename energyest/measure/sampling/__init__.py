"""When sensors are read: the thread that reads them, and its schedule."""
