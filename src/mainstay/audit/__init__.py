"""`mainstay audit`: what a program asks of the shared file system, and why.

command ──▶ runs: under strace, or with hooks in its interpreters ──▶ lines ──▶ strace, hooked: events
                                                                                      │
 table, JSON, picture ◀── report ◀── tally, modules, leaks (pure) ◀── Seen ◀── replay: who, where, in which phase
                             ▲
        counters: what the file system itself has counted, before and after

In each interpreter of the program runs `hook.py`, which says what is imported, and what of it is called.
"""
