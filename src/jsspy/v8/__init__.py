"""V8's object model seen from outside: bytes in, values out."""
