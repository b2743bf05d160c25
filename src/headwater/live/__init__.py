"""Live: what is kept true in memory for as long as somebody looks.

Standing queries and the rooms of sessions. What they need of searching is handed in from above.
"""
