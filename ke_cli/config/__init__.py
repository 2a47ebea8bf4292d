"""The configuration of a run: schema, composition, validation, identity."""

from ke_cli.config.compose import compose_run, run_config
from ke_cli.config.experiment import ExperimentConfig, PublishedConfig, ReportConfig
from ke_cli.config.identity import config_dict, run_dir, run_id, run_identity, run_name
from ke_cli.config.kinds import DatasetLoader
from ke_cli.config.plugins import Plugin
from ke_cli.config.schema import (
    OPERATIONAL,
    SCHEMA_VERSION,
    SCIENTIFIC,
    EditsFrom,
    GpuConfig,
    ModelConfig,
    RunConfig,
    ShardConfig,
    StatisticsConfig,
)

__all__ = [
    "OPERATIONAL",
    "SCHEMA_VERSION",
    "SCIENTIFIC",
    "DatasetLoader",
    "EditsFrom",
    "ExperimentConfig",
    "GpuConfig",
    "ModelConfig",
    "Plugin",
    "PublishedConfig",
    "ReportConfig",
    "RunConfig",
    "ShardConfig",
    "StatisticsConfig",
    "compose_run",
    "config_dict",
    "run_config",
    "run_dir",
    "run_id",
    "run_identity",
    "run_name",
]
