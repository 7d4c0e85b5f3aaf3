"""A search for messages that cost more than their size: in CPU, and in memory."""
