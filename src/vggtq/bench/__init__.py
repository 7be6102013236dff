"""Speed, error and bytes of everything that multiplies here, side by side: `vggtq bench`.

FP32 is the reference throughout, BF16 beside it where the CPU multiplies it in hardware. Candidates of one case run in turn
within every round, and a ratio compares two times of the same round. Who loses is shown losing.
"""
