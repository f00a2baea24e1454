"""`milp`: a second exact solver, time-indexed and solved by HiGHS, to check `cpsat` against."""
