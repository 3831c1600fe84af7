"""What gradmq's processes say to each other: messages, and their bytes."""
