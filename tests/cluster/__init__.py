"""Three real brokers behind proxies, and what is done to them."""
