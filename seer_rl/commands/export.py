"""`seer export`: an agent's encoder, or its whole policy, in one file."""

from pathlib import Path
from typing import Annotated

import tyro


def export(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")], output: Annotated[Path, tyro.conf.arg(metavar="OUTPUT")], /
) -> None:
    """Write the encoder of a run's agent (.safetensors), or its whole policy (.onnx), into one file.

    Args:
        run: Directory of the run.
        output: File to write. NAME.safetensors holds the encoder's weights by layer; NAME.onnx takes images and gives actions.
    """
    import contextlib

    from seer_rl.agents.networks import scale_of
    from seer_rl.commands.errors import mistakes
    from seer_rl.commands.streams import tell
    from seer_rl.experiments import export as onnx
    from seer_rl.training import build, checkpoint, files, transfer
    from seer_rl.training.weights import tensors

    with mistakes():
        if output.suffix not in (".safetensors", ".onnx"):
            raise ValueError(f"{output} must end in .safetensors (the encoder) or .onnx (the policy)")
        files.writable(output)
        config = checkpoint.load_config(run)
        agent, env = build.trained(run, config, single=True)
        with contextlib.closing(env):
            if output.suffix == ".onnx":
                largest, seconds = onnx.export(agent, env, output, count=200)
                tell(
                    f"{output}: {output.stat().st_size / 1e6:.2f} MB, {1e3 * seconds:.2f} ms an observation on one core; "
                    f"the agent's actions at 200 observations, outputs within {largest:.1g}"
                )
                return
        weights = tensors(agent.encoder)
        about = {"encoder": config.agent.encoder, "images": agent.obs_shape, "scale": scale_of(agent),
                 "env": config.env, "agent": agent.name}  # fmt: skip
        files.write_atomically(output, transfer.encoder_file(weights, about))
    tell(f"{output}: {sum(w.numel() for w in weights.values()):,} numbers of {config.agent.encoder}, from {config.env}")
