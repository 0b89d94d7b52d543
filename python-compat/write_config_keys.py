"""Write what the configurations of transformers' language models carry by default.

tests/data/configurations.json has one object a model_type with a class for causal language models: its default
configuration, or the text model's inside it, without what is null, false or empty. tests/config_keys.rs reads it.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "configurations.json"
LONGEST = 400  # characters of a value; longer lists are cut to the first entries


def shortened(value: Any) -> Any:
    """A list by layer without most of its layers."""
    return value[:4] if isinstance(value, list) and len(json.dumps(value)) > LONGEST else value


def text_configuration(model_type: str) -> dict[str, Any]:
    """The default configuration of a model, or of the text model inside it."""
    config = CONFIG_MAPPING[model_type]().get_text_config(decoder=True).to_dict()
    config = json.loads(json.dumps(config, default=str), parse_constant=str)  # no Infinity in JSON
    kept = {key: shortened(value) for key, value in config.items() if value not in (None, False, "", [], {})}
    return {key: value for key, value in kept.items() if not (isinstance(value, dict) and "model_type" in value)}


def main() -> None:
    """One line a model."""
    logging.set_verbosity(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows = []
    for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            rows.append(f" {json.dumps(model_type)}: {json.dumps(text_configuration(model_type), sort_keys=True)}")
        except Exception as error:  # a class that its own defaults do not pass
            print(f"{model_type}: {type(error).__name__}")
    OUT.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
