"""The supervisor: it claims, renews and settles, and hands the runs to runner children. It never imports user code."""
