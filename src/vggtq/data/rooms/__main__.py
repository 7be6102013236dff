"""`vggtq data rooms preview=out.png`: a contact sheet of procedural scenes."""

import sys

from vggtq.data.contact_sheet import command, draw
from vggtq.data.rooms import Rooms
from vggtq.terminal.command_line import entry

COMMAND = command(Rooms)
main = entry(COMMAND, lambda options: draw(Rooms, options))

if __name__ == "__main__":
    sys.exit(main())
