"""What is measured of servers and training runs, the rules on it, and the dashboards that show it.

Nothing here imports torch: the server's front process records with it.
"""
