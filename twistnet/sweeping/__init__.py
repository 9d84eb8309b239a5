"""Many fine-tuning runs in one folder, shared by as many processes as there are.

claims -> whose a run is   plan -> which runs there are   states -> where each stands   table, live -> what is seen
running -> one run after the other
"""
