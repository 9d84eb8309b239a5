"""The project's version, kept where reading it imports nothing else (the build reads it too)."""

VERSION = "0.1.0"
