"""The settings that a run begins with: the general defaults, and what an environment's family says of an agent and a preset."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from seer_rl import envs
from seer_rl.envs.base import Settings
from seer_rl.training.config import TrainConfig, agent_called

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
PRESETS = tuple(dict.fromkeys(name for family in envs.FAMILIES for name in family.presets))


def configure(env: str, agent: str | None = None, preset: str | None = None, transfer: bool = False) -> TrainConfig:
    """Return the settings of a preset for an environment and an agent by name. Raises ValueError where they don't go together.

    env: "" where none is named yet; the first family that has the preset then answers. transfer: the encoder comes from
    elsewhere, and is frozen from the start.
    """
    able = [family for family in envs.FAMILIES if preset is None or preset in family.presets]
    if not env and not able:
        raise ValueError(f"there is no preset {preset!r}: choose {' or '.join(PRESETS)}")
    family, task = envs.find(env) if env else (able[0], "")
    if preset is not None and preset not in family.presets:
        others = f"choose {' or '.join(family.presets)}" if family.presets else "leave out --preset"
        raise ValueError(f"there is no preset {preset!r} for {family.name}/ environments: {others}")
    name = agent or family.agent_for(task)
    chosen = {"env": env, "compile": True, **family.defaults(task, name)}
    if preset is not None:
        chosen |= family.presets[preset](task, name)
    if transfer:
        chosen["seer.freeze_step"] = 0
    config = TrainConfig(str(chosen.pop("env")), environment=family.Config(), agent=agent_called(name).Config())
    return changed(config, chosen)


def changed(config: Config, settings: Settings) -> Config:
    """Return a dataclass with other values of some settings, by their dotted names. Raises ValueError for names it has not."""
    for name, value in settings.items():
        section, _, rest = name.partition(".")
        if not hasattr(config, section):
            raise ValueError(f"there is no setting {name}")
        inner: Any = {section: changed(getattr(config, section), {rest: value}) if rest else value}
        config = replace(config, **inner)
    return config
