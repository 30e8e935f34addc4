"""Continuous profiling: a sampler, what it found, and HTTP requests about it.

    cli.sampler ── pipe ──► Collector ──► totals, ring ──► App ──► web (aiohttp), asgi
    (a process)   stream    (a thread)                     requests and answers

The sampler is a process of its own: it is never delayed by what a server does, and a command that
it starts is its child, as yama wants it.
"""
