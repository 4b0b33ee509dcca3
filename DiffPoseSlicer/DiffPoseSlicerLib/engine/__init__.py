"""The process boundary: a worker process that computes, its protocol, and the client that talks to it."""
