"""What providers tell of deliveries: each one's requests, verified and read, and kept before they are answered."""
