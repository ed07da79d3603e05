"""`ecar serve`: images for programs, over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ecar_lab.cli.app import leave, open_door, read_auth
from ecar_lab.cli.switches import parse
from ecar_lab.schema import Count, NotNegative, Port, Text


@dataclass
class ServeSwitches:
    """Serve images to programs: POST /generate, GET /health, GET /metrics; until you press Ctrl-C
    or send SIGTERM."""

    checkpoint: Text = "cifar10"
    """A checkpoint folder, or the name of one that ships."""
    batch: Count = 32
    """The most images made at once."""
    wait: NotNegative = 0.02
    """Seconds that a batch which is not full waits for more, 0 to 10."""
    queue: Count = 256
    """The most images that wait; further requests are refused with status 429."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "float32"
    """float32, bfloat16 or auto. In bfloat16 an image depends a little on the batch it is in."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Port = 7861
    """Port."""
    auth: Annotated[str | None, tyro.conf.arg(metavar="USER:PASSWORD")] = None
    """Who may enter, by HTTP Basic authorization. Others on this machine can read a command line:
    rather set the variable ECAR_APP_AUTH."""
    allow_host: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")
    ] = ()
    """A further name that the server is reached by, e.g. that of a proxy before it; may be given
    several times. The variable ECAR_APP_HOSTS adds to them."""


def run(arguments: list[str]) -> None:
    switches = parse(ServeSwitches, "serve", arguments)
    auth = read_auth(switches.auth)
    open_door("serve", "server", switches.host, auth)
    from apps.serve.asked import Limits
    from apps.serve.server import launch

    launch(
        checkpoint=switches.checkpoint,
        host=switches.host,
        port=switches.port,
        device=switches.device,
        dtype=switches.dtype,
        limits=Limits(switches.batch, switches.wait, switches.queue),
        auth=auth,
        hosts=switches.allow_host,
    )
    leave()
