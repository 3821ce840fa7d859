"""Where rocks fall among what other papers call important tokens."""
