"""`xnemo model`: fresh models, the released X-NeMo layout in and out, and the MLflow registry."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import parser, run, with_overrides

EXAMPLES = """\
  xnemo model import pretrained_weights/ -o models/xnemo
  xnemo model export models/xnemo -o released/
  xnemo model init --config jobs/configs/sd15.yaml -o models/start
  xnemo model register models/xnemo --name xnemo --alias champion
  xnemo model show models:/xnemo@champion"""


def main(argv: Sequence[str]) -> int:
    options = parser("model", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", required=True)
    bring = kinds.add_parser("import", help="the released layout (four .pth files) to our safetensors folder")
    bring.add_argument("source", type=Path)
    bring.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="default: as in the files")
    give = kinds.add_parser("export", help="our folder to the released layout, tensor-equal")
    give.add_argument("source")
    fresh = kinds.add_parser("init", help="a model to start training from, with published weights where given")
    fresh.add_argument("--config", required=True, help="YAML file (see jobs/configs/sd15.yaml)")
    for each in (bring, give, fresh):
        each.add_argument("-o", "--output", type=Path, required=True)
    register = kinds.add_parser("register", help="put a model folder into MLflow under a name and an alias")
    register.add_argument("source", type=Path)
    register.add_argument("--name", default="xnemo")
    register.add_argument("--alias", required=True)
    show = kinds.add_parser("show", help="parameters of each network")
    show.add_argument("source")
    arguments = with_overrides(options, argv)

    import xnemo
    from pipelines.models import locate
    from xnemo.weights import load

    if arguments.kind == "import":
        import torch

        dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
        xnemo.save(xnemo.load_official(arguments.source, dtype=dtype), arguments.output)
        print(arguments.output)
    elif arguments.kind == "init":
        from xnemo.pretrained import Start, start
        from xnemo_platform.config import load_config

        model, reports = start(load_config(Start, arguments.config, arguments.overrides))
        for report in reports:
            print(report)
        print(xnemo.save(model, arguments.output))
    elif arguments.kind == "export":
        xnemo.export_official(load(locate(arguments.source)), arguments.output)
        print(arguments.output)
    elif arguments.kind == "register":
        from xnemo_platform import registry

        version = registry.publish(locate(str(arguments.source)), arguments.name, arguments.alias)
        print(f"models:/{arguments.name}@{arguments.alias} is version {version}")
    else:
        model = load(locate(arguments.source))
        for name, part in model.named_children():
            print(f"{name:<16}{sum(p.numel() for p in part.parameters()) / 1e6:10.2f} M parameters")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
