"""The operator's web page: what came in, what waits, what was applied; rq-dashboard under /rq."""
