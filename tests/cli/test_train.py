"""The arguments of training, and how its errors are shown."""

import pytest

from libra_d2.cli.main import run
from libra_d2.cli.train import argument_parser


def test_detectron2s_arguments_are_all_there():
    args = argument_parser("train").parse_args(
        ["--config-file", "c", "--num-gpus", "2", "--resume", "--train-json", "a", "K", "V"]
    )
    assert (args.config_file, args.num_gpus, args.resume, args.train_json, args.opts) == ("c", 2, True, "a", ["K", "V"])
    assert args.dist_timeout == 30 * 60, "Detectron2's"


@pytest.mark.parametrize("seconds", ["0", "-5", "1e9", "soon"])
def test_a_timeout_is_a_number_of_seconds(seconds, capsys):
    with pytest.raises(SystemExit):
        argument_parser("train").parse_args(["--dist-timeout", seconds])
    assert "argument --dist-timeout: " in capsys.readouterr().err


@pytest.mark.parametrize("verbose", [True, False])
def test_the_terminal_shows_a_traceback_where_it_is_asked_for(verbose, capsys):
    assert run("train", [*["-v"][:verbose], "--config-file", "gone.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("libra-d2 train: error: --config-file: there is no file gone.yaml")
    assert ("Traceback" in error) == verbose


def test_ctrl_c_before_training_is_no_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("libra_d2.cli.train.run", interrupted)
    assert run("train", []) == 130
    assert capsys.readouterr().err == ""
