"""The `xnemo` command: one word per job, each a thin module that also runs as `python -m jobs.<name>`.

Every command ends with exit code 0 only on success; an error is one sentence on standard error that says
what, where and how to mend it (`--debug` shows the traceback).
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

# word on the command line -> (module, what `xnemo --help` says)
COMMANDS = {
    "doctor": ("jobs.doctor", "check this machine and say the mend for whatever is missing"),
    "demo": ("jobs.demo", "run the whole line once on this machine"),
    "data": ("jobs.data", "ingest a data set into shards, inspect and preview it"),
    "train": ("jobs.train", "train a stage: appearance, motion, temporal, tokenizer, generator"),
    "evaluate": ("jobs.evaluate", "measure a model on held-out identities"),
    "animate": ("jobs.animate", "animate a portrait with a driving video"),
    "motion": ("jobs.motion", "extract, extend, mix and draw motion files"),
    "model": ("jobs.model", "import, export and register models"),
    "submit": ("jobs.submit", "run any of these on a Ray cluster"),
    "jobs": ("jobs.submitted", "list, follow and stop submitted jobs"),
    "serve": ("jobs.serve", "serve a registered model over HTTP"),
    "retain": ("jobs.retain", "remove what nobody needs any more (the nightly job)"),
    "synthetic": ("jobs.synthetic", "draw synthetic portraits and driving clips"),
}
USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `xnemo` command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(overview())
        return 0 if arguments else USAGE_ERROR
    word, rest = arguments[0], arguments[1:]
    if word in {"-V", "--version"}:
        from importlib.metadata import version

        print(version("xnemo"))
        return 0
    if word not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(word, COMMANDS, n=1)
        print(f"xnemo: no command {word!r}" + (f"; did you mean {near[0]!r}?" if near else ""), file=sys.stderr)
        print("Run `xnemo --help` for the list.", file=sys.stderr)
        return USAGE_ERROR
    quiet_libraries()
    return run(importlib.import_module(COMMANDS[word][0]).main, rest)


def run(job: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run one job; turn the errors a user can cause into one sentence and an exit code."""
    from xnemo.errors import XNeMoError
    from xnemo_platform.confidential import hidden
    from xnemo_platform.errors import PlatformError

    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return job(arguments) or 0
    except (XNeMoError, PlatformError) as error:
        if debug:
            raise
        _say(f"error: {hidden(str(error))}")
        return 1
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if debug or not error.filename:
            raise
        _say(f"error: {error.filename}: {error.strerror}; check the path.")
        return 1
    except KeyboardInterrupt:
        _say("stopped")
        return 130


def _say(sentence: str) -> None:
    from jobs.progress import close

    close()
    print(sentence, file=sys.stderr)


def quiet_libraries() -> None:
    """Settings that keep libraries from asking the network, warning twice or moving our working folder."""
    defaults = {
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "DS_LOG_LEVEL": "error",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def overview() -> str:
    """What `xnemo --help` prints."""
    words = "\n".join(f"  {word:<10} {text}" for word, (_, text) in COMMANDS.items())
    return (
        "usage: xnemo COMMAND [options]\n\n"
        "X-NeMo portrait animation: data, training and serving as one platform on Ray.\n\n"
        f"{words}\n\n"
        "`xnemo COMMAND --help` shows options and examples. Start with `xnemo doctor`, then `xnemo demo`."
    )


def parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser whose help ends with examples that can be pasted."""
    return argparse.ArgumentParser(
        prog=f"xnemo {prog}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def with_overrides(options: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse flags; every other word must be `key=value` and ends in `.overrides`, wherever it stands."""
    arguments, rest = options.parse_known_args(argv)
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong:
        options.error(f"unrecognized: {' '.join(wrong)} (configuration is written key=value)")
    arguments.overrides = rest
    return arguments


if __name__ == "__main__":
    sys.exit(main())
