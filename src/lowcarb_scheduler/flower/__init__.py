"""The Flower side: a strategy that follows the plan, a hold that waits, a client that says where it is."""
