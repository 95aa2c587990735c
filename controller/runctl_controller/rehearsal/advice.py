"""What to do about what a rehearsal found: one sentence each."""

SAVE_AT_ALL = (
    "Save checkpoints into the folder that RUNCTL_CHECKPOINT_DIR names, every few minutes at least; a "
    "command can also be given the folder as {checkpoint_dir}."
)
SAVE_ON_SIGNAL = (
    "Have the training save when it gets SIGTERM (or the signal given by --signal): until then every "
    "interruption costs the work since the last periodic checkpoint."
)
ADD_HANDLER = (
    "Install a handler for the signal before the training begins, for instance in Python "
    "`signal.signal(signal.SIGTERM, …)` that sets a flag, and save and exit at the next step that sees it."
)
DO_NOT_IGNORE = (
    "See who ignores the signal: SIG_IGN is inherited from what starts the training, and a handler that only "
    "sets a flag needs a loop that looks at it between steps."
)
SAVE_IN_HANDLER = (
    "The handler of the signal is there: have it save into RUNCTL_CHECKPOINT_DIR before it exits."
)
END_AFTER_SAVE = "Exit after the save that the signal asked for: the steps after it are lost, and paid for."
RESUME_ARGUMENT = (
    "Have the training resume from RUNCTL_RESUME_FROM, or pass the path by --resume-arg, for instance "
    '--resume-arg "--resume {path}".'
)
PRINT_STEPS = "Print the step as the training goes, for instance `step=1200 loss=0.31`."
LOADS = "Try to load the newest checkpoint of `runctl checkpoints` by hand: the training could not."
INTERRUPT_EARLIER = "Interrupt sooner with --after or --at-step, or rehearse with a longer training."
SMALLER = (
    "Save less at the notice (without what can be made again), save faster (from several processes, to a "
    "faster disk), or save so often that the last periodic checkpoint will do."
)
WHOLE = (
    "Write a checkpoint under another name and rename it when it is whole; a file that is written in place "
    "is torn whenever the training is killed meanwhile."
)
ONE_WRITER = "Let rank 0 alone save, or give each rank a file of its own."
