"""The study behind docs/explanation/evaluation.md: small networks that one CPU core trains, and the commands of the large one."""
