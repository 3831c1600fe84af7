"""What a person sees of a run: figures out of statuses, a live table, plain lines, a summary."""
