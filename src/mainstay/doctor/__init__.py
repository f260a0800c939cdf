"""`mainstay doctor`: what of this host, environment and allocation is as a pool wants it. A file a subject.

Case ──▶ rounds: a thread for each subject, with a time limit ──▶ examine(case) ──▶ Checks ──▶ table, JSON
                                                                    │
          what commands say, /proc, and `probe.py` on each node ────┘ judged by pure functions
"""
