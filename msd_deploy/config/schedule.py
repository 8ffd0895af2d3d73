"""Settings that the trainings of teacher and student share. Torch-free."""

from msd_deploy.config.setting import Setting

EPOCHS = Setting("Number of epochs.", (1, 10_000))
BATCH_SIZE = Setting("Batch size.", (1, 65_536))
LEARNING_RATE = Setting(
    "Peak learning rate of AdamW; linear warm-up, then cosine decay to 0.", (1e-8, 10)
)
WEIGHT_DECAY = Setting("Decoupled weight decay of AdamW.", (0, 10))
WARMUP_SHARE = Setting("Share of the steps with linear warm-up of the learning rate.", (0, 0.9))
CHECKPOINT_SECONDS = Setting("Minimum time between two checkpoints, in seconds.", (0, 1e9))
LOG_EVERY = Setting("Steps between two lines of history.jsonl.", (1, 1_000_000))
MODALITY_DROPOUT = Setting(
    "Share of steps that see one modality alone, image or text equally often.", (0, 0.9)
)
