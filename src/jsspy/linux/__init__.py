"""Every system call jsspy makes; the only package that imports ctypes."""
