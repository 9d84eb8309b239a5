"""Images per second of every stage, measured beside peers, with committed rows."""
