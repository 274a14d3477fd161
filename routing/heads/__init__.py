"""The same two questions with trained models. A head is a small model on features of a request or draft."""
