"""What makes and checks the reader notebooks, runs them, and keeps the address in one place."""
