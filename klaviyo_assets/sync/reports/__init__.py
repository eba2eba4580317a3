"""Reports: which days to ask for, which day a row belongs to, and what it costs.

What belongs here: the fewest requests for the partitions wanted (`cover`, `worth`), placing totals
on days (`sending`, `place`), the cost beforehand (`cost`), and carrying it out (`fetch`). What does
not: the requests and the quota (`api`), the rows' shape (`tables`), files (`lake`).
"""
