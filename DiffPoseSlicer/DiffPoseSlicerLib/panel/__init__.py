"""Qt widgets of the module's panel and their controller."""
