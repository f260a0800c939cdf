"""What goes over the sockets: frames, proofs of the key, payloads, addresses. Sans-IO but for `address`."""
