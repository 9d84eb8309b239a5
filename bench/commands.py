"""The commands of the suite, by name: `python -m bench` and `twistnet bench` call the same."""

from __future__ import annotations

from twistnet.commands import Command

ABOUT = "What bounds a run: images a second of every stage, alone and together, beside peers."
COMMANDS = {
    "all": Command("bench.everything:everything", "Measure all stages, loaders beside peers and training, and report"),
    "smoke": Command("bench.everything:smoke", "Run the suite at its smallest, and keep nothing: does it work here?"),
    "report": Command("bench.report:report", "Draw a run's rows as one page, and as a picture"),
    "readme": Command("bench.readme:readme", "Write the tables of README and docs anew from the rows"),
    "gpu": Command("bench.gpu:gpu", "Check and measure all that wants a CUDA card"),
    "storage": Command("bench.storage:storage", "Measure how fast a set is read, cold and warm"),
    "decode": Command("bench.decode:decode", "Measure every decoder alone, on one core and on all"),
    "upload": Command("bench.upload:upload", "Measure uploads of batches to the device"),
    "plan": Command("bench.plan:plan", "Project what pretraining takes on a machine, and what bounds it there"),
    "compare": Command("bench.compare:compare", "Say which rows of two runs differ beyond their spread"),
    "conversion": Command("bench.conversion:conversion", "Measure conversion beside tarfile and FFCV"),
    "loaders": Command("bench.loaders:loaders", "Measure whole loaders, ours beside FFCV's, DALI's and torchvision's"),
    "finetuning": Command("bench.finetuning:finetuning", "Measure loading for fine-tuning beside the usual loop"),
    "step": Command("bench.steps:step", "Measure training steps without data, and the twist block alone"),
    "train": Command("bench.training:train", "Measure training end to end beside each of its stages alone"),
    "checkpoint": Command("bench.checkpoint:checkpoint", "Measure what a checkpoint costs training, beside torch.save"),
    "torture": Command("bench.torture:torture", "Kill and stop a run at random, and hold it to an untouched one"),
    "sweep": Command("bench.sweep:sweep", "Kill a shared sweep at random, and hold it to an undisturbed one"),
    "soak": Command("bench.soak:soak", "Train for many small batches, and refuse what grows"),
    "learning": Command("bench.learning:learning", "Train models on photographs over several seeds"),
    "transfer": Command("bench.transfer:transfer", "Fine-tune pretrained models beside the same from scratch"),
    "augment": Command("bench.augment:augment", "Measure what augmentation costs a core, beside torchvision and timm"),
    "bookkeeping": Command("bench.bookkeeping:bookkeeping", "Measure what exact order and draws cost a processor"),
    "stages": Command("bench.stages:stages", "Measure where a core's time goes in decoding"),
    "index": Command("bench.index:index", "Measure how fast a set of ImageNet's size opens, beside FFCV's reader"),
}
