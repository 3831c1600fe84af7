"""The inference node: follows releases and serves predictions from them."""
