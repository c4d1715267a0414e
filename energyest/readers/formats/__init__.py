"""One module per tool, which knows only what that tool's logs look like."""
