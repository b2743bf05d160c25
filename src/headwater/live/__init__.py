"""Live: what is kept true in memory for as long as somebody looks.

Standing queries, alerts and the rooms of sessions. The engine they ask is handed in from above;
what a score is, and what an exact answer, is `search`'s own.
"""
