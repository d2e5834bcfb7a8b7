from setuptools import find_packages, setup

setup(
    name="ddlm",
    version="0.1.0",
    description="Discrete diffusion language models in JAX: train, bound, sample.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["diffusion*", "models*", "samplers*", "configs*", "experiments*"]
    ),
    py_modules=["ddlm"],
    package_data={
        "experiments.comparison": ["published.json"],
        "experiments.data": ["corpora/*"],
        "experiments.data.builders": ["checksums.tsv"],
        "experiments.evaluation": ["record_schema.json"],
        "experiments.sampling": ["*.html"],
    },
    install_requires=[
        "jax>=0.10.2",  # arrays, compilation, sharding
        "flax>=0.12.8",  # the modules of the backbone (NNX)
        "optax>=0.2.8",  # AdamW, clipping, learning-rate schedules
        "orbax-checkpoint>=0.12.8",  # asynchronous, sharded checkpoints
        "tensorflow-datasets>=4.9.10",  # builders of published corpora (without TensorFlow)
        "einops>=0.8.2",  # the reshapes of attention, readable
        "grain>=0.2.18",  # the input pipeline: deterministic, position checkpointable
        "jsonschema>=4.26",  # what an evaluation record must hold
        "ml_dtypes>=0.5",  # bfloat16 of published tensors, as jax has it
        "numpy>=2.0",  # token arrays on disk, memory-mapped
        "pyarrow>=19",  # Parquet and Arrow tables of documents; tensorflow-datasets brings it
        "array-record>=0.8",  # records of tensorflow-datasets as documents; likewise
        "fsspec>=2024.6",  # text and runs at gs://, s3://, https:// ...; tokenizers brings it
        "constriction>=0.5.0",  # the entropy coder of experiments.compress
        "shtab>=1.13",  # the scripts of `ddlm completion`, made of the options that argparse has
        "scipy>=1.14",  # Student's quantiles for seeds, fits of scaling; jax brings it
        "zstandard>=0.25",  # what experiments.compress is compared with
        "tokenizers>=0.23",  # WordPiece and byte-level BPE, as their vocabularies were made
        "sentencepiece>=0.2.3",  # the vocabulary of the D3PM protocol of LM1B, trained or loaded
        "tensorboardX>=2.6.5",  # TensorBoard event files without TensorFlow
        "rapidfuzz>=3.14",  # edits between answers and references, in experiments.score
        "rich>=14",  # bars of progress, and samples that play in the terminal
    ],
    extras_require={
        "bleu": ["sacrebleu>=2.5"],  # BLEU and chrF of experiments.score
        "build": ["setuptools>=77"],  # builds this package without a second, unpinned download
        "docs": [
            "mkdocs-material>=9.8",  # the documentation site: pages, search, themes, all offline
            "mkdocstrings[python]>=1.0",  # its API reference, made of docstrings
        ],
        "notebooks": [  # docs/notebooks/ executed, in an editor or by `make notebooks`
            "ipykernel>=7.0",  # the Python that runs cells
            "jupytext>=1.19",  # a notebook from its script
            "matplotlib>=3.10",  # the figures
            "nbclient>=0.11",  # executes all cells of a notebook
        ],
        "mauve": ["mauve-text>=0.4.0"],  # MAUVE of experiments.quality
        "transformers": [  # a scorer of experiments.quality from a local folder
            "safetensors>=0.8",  # its weights
            "torch>=2.9",  # its network
            "transformers>=5.0",  # its architecture and tokenizer
        ],
        "lm-eval": ["lm-eval>=0.4.13"],  # the tasks that experiments.lm_eval evaluates a run on
        "hub": ["huggingface-hub>=0.34"],  # published checkpoints by their names
        "mlflow": [
            "mlflow>=3.0"
        ],  # train.tracker=MLflow, with its database for use without a server
        "plan": ["libtpu>=0.0.42"],  # the TPU compiler of experiments.plan; that of the same jax
        "plot": ["matplotlib>=3.10"],  # the curves of a training, the figure of experiments.compare
        "patterns": ["outlines-core>=0.2.14"],  # --regex and --json-schema as automata over bytes
        "wandb": ["wandb>=0.20"],  # train.tracker=WeightsAndBiases
        "test": [
            "hypothesis>=6.170",  # the cases of experiments.studies.fuzz
            "jupytext>=1.19",  # whether notebooks are those of their scripts
            "matplotlib>=3.10",  # the figure of experiments.compare is drawn in its test
            "outlines-core>=0.2.14",  # patterns of samples
            "pyright[nodejs]>=1.1.414",  # the type checker, with the Node that runs it
            "pytest>=9.0",  # the test runner
            "pytest-xdist>=3.8",  # the suite on both cores
            "ruff>=0.17",  # lint and format
        ],
    },
    entry_points={"console_scripts": ["ddlm = experiments.cli:main"]},
)
