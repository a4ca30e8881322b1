"""The command as a process: ``python -m onnx_fp16fix`` and the console script."""

import signal

# Until the command is there to answer, an interrupt ends it like any program: without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from onnx_fp16fix.cli import run  # noqa: E402

if __name__ == "__main__":
    run()
