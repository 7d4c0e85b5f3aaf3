"""How long a test waits for what must happen: it ends a hang, and judges no speed."""

PATIENCE_SECONDS = 180.0
