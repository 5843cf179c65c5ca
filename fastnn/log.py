"""The logger of the package. It is silent until somebody gives it, or the root, a handler."""

import logging

logger = logging.getLogger("fastnn")
logger.addHandler(logging.NullHandler())
