# SPDX-License-Identifier: Apache-2.0
"""`python -m shadowwatch` is `shadowwatch`."""

from shadowwatch.cli import main

raise SystemExit(main())
