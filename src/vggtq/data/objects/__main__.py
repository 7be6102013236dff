"""`vggtq data objects preview=out.png`: a contact sheet of procedural scenes."""

import sys

from vggtq.data.contact_sheet import command, draw
from vggtq.data.objects import Objects
from vggtq.terminal.command_line import entry

COMMAND = command(Objects)
main = entry(COMMAND, lambda options: draw(Objects, options))

if __name__ == "__main__":
    sys.exit(main())
