# SPDX-License-Identifier: Apache-2.0
"""`python -m shadowwatch.daemon DESCRIPTOR` is the long-running half: what start/ execs."""

from shadowwatch.daemon.loop import main

raise SystemExit(main())
