"""What to do about what a rehearsal found: one sentence each."""

SAVE_AT_ALL = (
    "Save checkpoints into the folder that RUNCTL_CHECKPOINT_DIR names, every few minutes at least; a "
    "command can also be given the folder as {checkpoint_dir}."
)
SAVE_ON_SIGNAL = (
    "Have the training save when it gets SIGTERM (or the signal given by --signal): until then every "
    "interruption costs the work since the last periodic checkpoint."
)
RESUME_ARGUMENT = (
    "Have the training resume from RUNCTL_RESUME_FROM, or pass the path by --resume-arg, for instance "
    '--resume-arg "--resume {path}".'
)
PRINT_STEPS = "Print the step as the training goes, for instance `step=1200 loss=0.31`."
LOADS = "Try to load the newest checkpoint of `runctl checkpoints` by hand: the training could not."
INTERRUPT_EARLIER = "Interrupt sooner with --after or --at-step, or rehearse with a longer training."
