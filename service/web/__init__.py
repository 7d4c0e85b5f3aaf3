"""The web port: which requests are let in, and how many connections are held for how long."""
