# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch run`."""

from __future__ import annotations

import argparse
import os
import signal

from shadowwatch.commands.arguments import Commands, add_settings
from shadowwatch.config import DEFAULT, TABLES, fill
from shadowwatch.start.launch import collect, wait_for_kvm


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("run", help="watch this host and serve metrics (root)")
    add_settings(parser, TABLES["run"])
    parser.add_argument(
        "--config.check", dest="check", action="store_true", help="only check the configuration file and these flags"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Watch until told to end; returns only by an error, or when only the configuration is checked."""
    fill(arguments, "run")
    if arguments.check:
        from shadowwatch.control.server import check_path
        from shadowwatch.start.handover import find_user
        from shadowwatch.web.config import texts

        if arguments.user:
            find_user(arguments.user)
        check_path(arguments.socket)
        files = [str(arguments.config or DEFAULT)] if arguments.config or os.path.exists(DEFAULT) else []
        if arguments.web_config_file:
            texts(arguments.web_config_file)
            files.append(arguments.web_config_file)
        for file in files:
            print(f"shadowwatch: {file} is valid")
        if not files:
            print(f"shadowwatch: there is no {DEFAULT} to check")
        return 0
    # Who asks for a reload before there is a model to keep is heard when there is.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    wait_for_kvm()
    settings = {setting.name: getattr(arguments, setting.name) for setting in TABLES["run"]}
    return collect(arguments, socket_path=arguments.socket, settings=settings)
