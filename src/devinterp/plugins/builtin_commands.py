"""The commands that come with the package. No plugin returns them: ``devinterp plugins`` must work when plugins do not."""

from __future__ import annotations

from devinterp.types import Command

#: By name. What the command line imports is named as text here, below the command line, so that no plugin takes a name.
BUILTIN_COMMANDS = {
    command.name: command
    for command in (
        Command(
            "quickstart",
            "devinterp.cli.quickstart:quickstart",
            "Sample a real language model and show its learning coefficient.",
        ),
        Command(
            "calibrate",
            "devinterp.cli.calibrate:calibrate",
            "Choose the settings of a run by measurements and short runs, or refuse.",
        ),
        Command(
            "sample",
            "devinterp.cli.sampling:sample",
            "Sample around the weights of a HuggingFace model into a store.",
        ),
        Command(
            "study",
            "devinterp.cli.study:study",
            "Sample every run of a plan: checkpoints, seeds, settings, into one store.",
        ),
        Command(
            "masks",
            "devinterp.cli.masks:masks",
            "Show which weights of a model a restriction such as l0h1 selects.",
        ),
        Command(
            "info",
            "devinterp.cli.info:info",
            "Show what a store holds, how far its chains are, and what can be asked of it.",
        ),
        Command(
            "resume",
            "devinterp.cli.resume:resume",
            "Go on with a run that `devinterp sample` began, or make it longer.",
        ),
        Command(
            "replay",
            "devinterp.cli.replay:replay",
            "Make a stored run again from what its store says of it, and compare.",
        ),
        Command(
            "export",
            "devinterp.cli.export:export",
            "Write the numbers of a run or a study as a table: Parquet, CSV or JSON.",
        ),
        Command(
            "check",
            "devinterp.cli.check:check",
            "Verify a store from end to end, and name what is damaged.",
        ),
        Command(
            "doctor",
            "devinterp.cli.doctor:doctor",
            "Check the installation: versions, what is missing, and a run whose result is known.",
        ),
        Command(
            "plugins",
            "devinterp.cli.info:show_plugins",
            "List the installed plugins and what each provides.",
        ),
    )
}
