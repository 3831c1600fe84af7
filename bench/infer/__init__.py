"""How an inference node answers, seen by a real client: one file a question."""
