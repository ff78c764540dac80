"""The scripts, named after what they bring."""
