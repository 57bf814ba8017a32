"""What a worker adds up between two writes to the store: small aggregates that merge in any order."""
