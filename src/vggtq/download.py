"""`vggtq download`, which lives in vggtq.data.eth3d."""

import runpy

if __name__ == "__main__":
    runpy.run_module("vggtq.data.eth3d", run_name="__main__", alter_sys=True)
