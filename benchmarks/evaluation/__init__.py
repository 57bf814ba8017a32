"""The study behind docs/evaluation.md: small networks that one CPU core trains, and the commands of the large one."""
