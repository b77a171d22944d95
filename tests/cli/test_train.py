"""The arguments of training."""

from libra_d2.cli.train import argument_parser


def test_detectron2s_arguments_are_all_there():
    args = argument_parser("train").parse_args(
        ["--config-file", "c", "--num-gpus", "2", "--resume", "--train-json", "a", "K", "V"]
    )
    assert (args.config_file, args.num_gpus, args.resume, args.train_json, args.opts) == ("c", 2, True, "a", ["K", "V"])
