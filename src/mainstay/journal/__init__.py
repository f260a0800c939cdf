"""The journal: nothing that finished runs twice.

    call ──▶ keys ──▶ Journal ── find ──▶ its result, from this run or an earlier one
                         ▲
    finished call ───────┴─ append ──▶ a thread writes what came within 50 ms ──▶ a store, found by its name

`keys` tells what a call is known by; `journal` is what the pool talks to; each store (`sqlite`, `memory`) is one
file. Nothing is imported here: workers come by for `memo`.
"""
